import { Balloon } from "./balloon.js";
import { fromBase64, toBase64, toBytes, toText } from "./bytes.js";
import { Command, type CommandState, type StartOptions } from "./command.js";
import { BallonetError } from "./errors.js";
import { Files } from "./files.js";
import type { components, operations } from "./generated/api.js";
import type { Server } from "./server.js";
import type { Terminal } from "./terminal.js";

type Schemas = components["schemas"];
export type CreateSettings = Schemas["CreateSandbox"];
export type ModifySettings = Schemas["ModifySandbox"];
export type SandboxRow = Schemas["Sandbox"];
export type SandboxDetails = Schemas["SandboxDetails"];
export type Change = Schemas["Change"];
export type End = Schemas["End"];
export type ListQuery = NonNullable<operations["getSandboxes"]["parameters"]["query"]>;

export interface ExecOptions extends Omit<Schemas["ExecBody"], "argv" | "stdin" | "stdin_encoding"> {
  /** What the command reads from standard input. */
  stdin?: string | Uint8Array;
  /** Fail with a {@link CommandFailedError} unless the command succeeds. */
  check?: boolean;
}

export interface ExecResult {
  /** `null`: it was killed at its timeout. */
  returncode: number | null;
  timed_out: boolean;
  /** As text; bytes that are not UTF-8 are replaced. */
  stdout: string;
  stderr: string;
  stdout_bytes: Uint8Array;
  stderr_bytes: Uint8Array;
}

/** A command that was to succeed has failed. */
export class CommandFailedError extends Error {
  override readonly name = "CommandFailedError";

  constructor(
    readonly argv: readonly string[],
    readonly result: ExecResult,
  ) {
    const how = result.timed_out ? "was killed at its timeout" : `failed with status ${result.returncode}`;
    const said = result.stderr.trimEnd();
    super(`${JSON.stringify(argv)} ${how}${said === "" ? "" : `: ${said}`}`);
  }
}

/** A sandbox. Methods that describe it ask the server: nothing is kept here but its name. */
export class Sandbox implements AsyncDisposable {
  readonly balloon: Balloon;
  readonly files: Files;

  constructor(
    readonly server: Server,
    readonly name: string,
  ) {
    this.balloon = new Balloon(server, name);
    this.files = new Files(server, name);
  }

  /**
   * Creates a sandbox, starts it, and returns when its guest answers.
   *
   * @param options.idempotencyKey a repetition with the same key and settings returns the same sandbox.
   */
  static async create(
    server: Server,
    settings: CreateSettings = {},
    options: { idempotencyKey?: string } = {},
  ): Promise<Sandbox> {
    const key = options.idempotencyKey;
    const params = key === undefined ? {} : { header: { "Idempotency-Key": key } };
    const made = await server.take(server.api.POST("/v1/sandboxes", { params, body: settings }));
    return new Sandbox(server, made.name);
  }

  /**
   * Finds an existing sandbox, running or not.
   * @throws {BallonetError} with the code `unknown-sandbox`.
   */
  static async get(server: Server, name: string): Promise<Sandbox> {
    const sandbox = new Sandbox(server, name);
    await sandbox.inspect();
    return sandbox;
  }

  /** Lists sandboxes, oldest first. */
  static async list(server: Server, query: ListQuery = {}): Promise<SandboxRow[]> {
    return server.take(server.api.GET("/v1/sandboxes", { params: { query } }));
  }

  /** Describes the sandbox, with its configuration. */
  async inspect(): Promise<SandboxDetails> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}", { params: this.#at }));
  }

  /** Runs a command to its end. An output of more than 16 MiB is an error: use {@link execStream} then. */
  async exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const { stdin, check = false, ...rest } = options;
    const input: Pick<Schemas["ExecBody"], "stdin" | "stdin_encoding"> =
      stdin === undefined ? {} : { stdin: toBase64(toBytes(stdin)), stdin_encoding: "base64" };
    const body = { argv: [...argv], ...rest, ...input };
    const found = await this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/exec", { params: this.#at, body }),
    );
    const [stdout_bytes, stderr_bytes] = [found.stdout, found.stderr].map((text) =>
      found.encoding === "base64" ? fromBase64(text) : toBytes(text),
    ) as [Uint8Array, Uint8Array];
    const { returncode, timed_out } = found;
    const [stdout, stderr] = [toText(stdout_bytes), toText(stderr_bytes)];
    const result = { returncode, timed_out, stdout, stderr, stdout_bytes, stderr_bytes };
    if (check && returncode !== 0) throw new CommandFailedError(argv, result);
    return result;
  }

  /** Starts a command whose output is read while it runs. */
  async execStream(argv: readonly string[], options: StartOptions = {}): Promise<Command> {
    const body = { argv: [...argv], ...options };
    const started = await this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/execs", { params: this.#at, body }),
    );
    return new Command(this.server, this.name, started.id);
  }

  /** Starts a command with a terminal, and attaches to it. */
  async terminal(argv: readonly string[] = ["sh"], options: Omit<StartOptions, "tty"> = {}): Promise<Terminal> {
    return (await this.execStream(argv, { ...options, tty: true })).attach();
  }

  /** A command that was started before, by its ID. */
  command(id: string): Command {
    return new Command(this.server, this.name, id);
  }

  /** The commands that were started through the server. */
  async commands(): Promise<CommandState[]> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/execs", { params: this.#at }));
  }

  /** Memory statistics of the guest and of the host. */
  async stats(): Promise<Schemas["Stats"]> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/stats", { params: this.#at }));
  }

  /** What the sandbox uses of the host: totals of processor time, memory and I/O since its start. */
  async usage(): Promise<Schemas["Usage"]> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/usage", { params: this.#at }));
  }

  /** The memory of the sandbox over time, oldest sample first. */
  async history(query: { since?: number } = {}): Promise<Record<string, unknown>[]> {
    const params = { ...this.#at, query };
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/history", { params }));
  }

  /** Changes settings: some at once, the others from the next start on. */
  async modify(settings: ModifySettings): Promise<Change[]> {
    return this.server.take(
      this.server.api.PATCH("/v1/sandboxes/{name}", { params: this.#at, body: settings }),
    );
  }

  async start(options: Schemas["StartBody"] = {}): Promise<SandboxDetails> {
    return this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/start", { params: this.#at, body: options }),
    );
  }

  async stop(options: Schemas["StopBody"] = {}): Promise<SandboxDetails> {
    return this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/stop", { params: this.#at, body: options }),
    );
  }

  /** Saves the sandbox to disk, so that it takes no memory. */
  async pause(options: Schemas["PauseBody"] = {}): Promise<SandboxDetails> {
    return this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/pause", { params: this.#at, body: options }),
    );
  }

  async resume(options: Schemas["ResumeBody"] = {}): Promise<SandboxDetails> {
    return this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/resume", { params: this.#at, body: options }),
    );
  }

  /** Gives the sandbox, which must not be running or paused, another name. Returns it with that name. */
  async rename(name: string): Promise<Sandbox> {
    const body = { name };
    await this.server.take(this.server.api.POST("/v1/sandboxes/{name}/rename", { params: this.#at, body }));
    return new Sandbox(this.server, name);
  }

  /** Waits until the sandbox has ended. */
  async wait(): Promise<End> {
    for (;;) {
      const end = await this.server.take(
        this.server.api.GET("/v1/sandboxes/{name}/wait", {
          params: { ...this.#at, query: { timeout_s: 60 } },
        }),
      );
      if (end.ended) return end;
    }
  }

  /** Removes the sandbox with its logs and its disk; with `force`, even if it is running. */
  async remove(options: { force?: boolean } = {}): Promise<void> {
    const params = { ...this.#at, query: options };
    await this.server.take(this.server.api.DELETE("/v1/sandboxes/{name}", { params }));
  }

  /** `await using box = …` removes the sandbox at the end of the block. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.remove({ force: true });
    } catch (error) {
      if (!(error instanceof BallonetError && error.code === "unknown-sandbox")) throw error;
    }
  }

  get #at(): { path: { name: string } } {
    return { path: { name: this.name } };
  }
}
