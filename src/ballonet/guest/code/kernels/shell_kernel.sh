# Runs the code of a session in a POSIX shell (docs/agent.md). Each line of descriptor 3 is a request: its number, a
# space, and the code with newlines as \n and backslashes as \\. The answer is a line "d NUMBER STATUS".

# 'command' keeps a syntax error from ending the shell.
_ballonet_run() {
    _ballonet_running=1
    command eval "$1"
    set -- $?
    _ballonet_running=
    return "$1"
}

_ballonet_running= _ballonet_interrupted=
printf 'd 0 0\n' >&3
while :; do
    # Leaves _ballonet_run. Between two requests it only interrupts 'read'.
    trap '_ballonet_interrupted=1; [ -z "$_ballonet_running" ] || return 130' INT
    if ! IFS= read -r _ballonet_line <&3; then
        [ -n "$_ballonet_interrupted" ] || exit 0
        _ballonet_interrupted=
        continue
    fi
    _ballonet_code=$(printf '%b_' "${_ballonet_line#* }")
    _ballonet_run "${_ballonet_code%_}" 3>&- </dev/null
    _ballonet_status=$?
    # What 'return' in a trap leaves in $? depends on where the signal came.
    [ -z "$_ballonet_interrupted" ] || _ballonet_status=130
    printf 'd %s %s\n' "${_ballonet_line%% *}" "$_ballonet_status" >&3
    _ballonet_running= _ballonet_interrupted=
done
