// A terminal on a shell of the sandbox, with xterm.js over the server's WebSocket.

import { FitAddon } from "./vendor/addon-fit.js";
import { Terminal } from "./vendor/xterm.js";
import { of, request, webSocket } from "./api.js";
import { $ } from "./dom.js";

// The guest's best shell: images without bash have sh.
const SHELL = ["/bin/sh", "-c", "command -v bash >/dev/null && exec bash -l; exec sh -l"];
const STDIN = 0;
const MOST_BYTES = 64 * 1024;
const TRIES = 5;

export class TerminalView {
  #name = null;
  #exec = null;
  #terminal = null;
  #fit = null;
  #socket = null;
  // How many messages of output have arrived: a new connection continues after them.
  #count = 0;
  #tries = 0;
  #show;

  constructor(showError) {
    this.#show = showError;
    $("terminal-open").addEventListener("click", () => this.open());
    $("terminal-close").addEventListener("click", () => this.end());
    new ResizeObserver(() => this.#refit()).observe($("terminal-screen"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      if (this.#terminal) this.#terminal.options.theme = theme();
    });
  }

  /** Show the terminals of this sandbox; one of another is ended. */
  choose(name) {
    if (name === this.#name) return;
    this.end();
    this.#terminal?.dispose();
    this.#terminal = null;
    this.#name = name;
    this.#note("Shift+F6 moves the focus out of the terminal.");
  }

  async open() {
    if (this.#exec) return;
    this.#make();
    $("terminal-open").disabled = true;
    const name = this.#name;
    try {
      const body = { argv: SHELL, tty: true, stdin: true, rows: this.#terminal.rows, cols: this.#terminal.cols };
      body.env = { TERM: "xterm-256color" };
      const exec = await request("POST", of(name, "/execs"), body);
      if (name !== this.#name) {
        await request("DELETE", of(name, `/execs/${exec.id}`));
        return;
      }
      this.#exec = exec.id;
      this.#count = this.#tries = 0;
      $("terminal-close").disabled = false;
      this.#connect();
      this.#terminal.focus();
    } catch (error) {
      $("terminal-open").disabled = false;
      this.#note(error.message);
      this.#show(error);
    }
  }

  /** End the shell and what it has started. */
  end() {
    const exec = this.#exec;
    if (!exec) return;
    this.#closed("The terminal was ended.");
    request("DELETE", of(this.#name, `/execs/${exec}`)).catch(() => {}); // it has ended, or the sandbox has
  }

  #make() {
    this.#terminal?.dispose();
    const terminal = new Terminal({
      fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
      fontSize: 14,
      cursorBlink: false,
      scrollback: 5000,
      theme: theme(),
    });
    this.#fit = new FitAddon();
    terminal.loadAddon(this.#fit);
    terminal.open($("terminal-screen"));
    terminal.attachCustomKeyEventHandler((event) => {
      if (event.key !== "F6" || !event.shiftKey) return true;
      $(this.#exec ? "terminal-close" : "terminal-open").focus();
      return false;
    });
    terminal.onData((text) => this.#type(new TextEncoder().encode(text)));
    terminal.onBinary((text) => this.#type(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
    terminal.onResize(({ rows, cols }) => this.#send(JSON.stringify({ resize: { rows, cols } })));
    this.#terminal = terminal;
    this.#fit.fit();
  }

  #connect() {
    const exec = this.#exec;
    const socket = webSocket(of(this.#name, `/execs/${exec}/attach?after=${this.#count}`));
    this.#socket = socket;
    socket.addEventListener("open", () => {
      this.#tries = 0;
      const { rows, cols } = this.#terminal;
      this.#send(JSON.stringify({ resize: { rows, cols } }));
      this.#note("Connected. Shift+F6 moves the focus out of the terminal.");
    });
    socket.addEventListener("message", ({ data }) => {
      if (socket !== this.#socket) return;
      if (typeof data === "string") {
        this.#ended(JSON.parse(data));
      } else {
        this.#count += 1;
        this.#terminal.write(new Uint8Array(data, 1));
      }
    });
    socket.addEventListener("close", () => {
      if (socket !== this.#socket || this.#exec !== exec) return;
      if (this.#tries >= TRIES) {
        this.#closed("The connection was lost.");
        return;
      }
      this.#tries += 1;
      this.#note("The connection was lost; connecting again…");
      setTimeout(() => {
        if (this.#exec === exec && socket === this.#socket) this.#connect();
      }, 500 * this.#tries);
    });
  }

  #ended({ exit, error }) {
    if (error) this.#closed(error.detail);
    else this.#closed(`The shell has ended with status ${exit.returncode}.`);
  }

  #closed(why) {
    const socket = this.#socket;
    this.#exec = this.#socket = null;
    socket?.close();
    $("terminal-open").disabled = false;
    $("terminal-close").disabled = true;
    this.#terminal?.write(`\r\n[${why.replace(/[^ -~]/g, "?")}]\r\n`);
    this.#note(why);
  }

  #type(bytes) {
    for (let at = 0; at < bytes.length; at += MOST_BYTES) {
      const part = bytes.subarray(at, at + MOST_BYTES);
      const message = new Uint8Array(part.length + 1);
      message[0] = STDIN;
      message.set(part, 1);
      this.#send(message);
    }
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(message);
  }

  #refit() {
    if (this.#terminal && $("terminal-screen").clientWidth > 0) this.#fit.fit();
  }

  #note(text) {
    $("terminal-note").textContent = text;
  }
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    background: colour("terminal"),
    foreground: colour("text"),
    cursor: colour("text"),
    cursorAccent: colour("terminal"),
    selectionBackground: colour("selection"),
    ...(matchMedia("(prefers-color-scheme: dark)").matches ? {} : LIGHT),
  };
}

// Colours that are readable on a light background.
const LIGHT = {
  black: "#1c2128",
  red: "#b3261e",
  green: "#1a6b2f",
  yellow: "#7a5200",
  blue: "#1f56a8",
  magenta: "#8a2a8f",
  cyan: "#0b6470",
  white: "#5a636e",
  brightBlack: "#57606a",
  brightRed: "#b3261e",
  brightGreen: "#1a6b2f",
  brightYellow: "#7a5200",
  brightBlue: "#1f56a8",
  brightMagenta: "#8a2a8f",
  brightCyan: "#0b6470",
  brightWhite: "#1c2128",
};
