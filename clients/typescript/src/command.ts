import { fromBase64, toText } from "./bytes.js";
import { errorOf } from "./errors.js";
import { sent, type Contents } from "./files.js";
import type { components } from "./generated/api.js";
import type { Server } from "./server.js";
import { resumedEvents, type Opened, type Reconnection } from "./sse.js";
import { Terminal } from "./terminal.js";

type Schemas = components["schemas"];
export type CommandState = Schemas["Exec"];
export type StartOptions = Omit<Schemas["StartExecBody"], "argv">;

/** A part of a command's output. */
export interface Piece {
  /** With which {@link Command.output} goes on after it. */
  id: string;
  stream: "stdout" | "stderr";
  bytes: Uint8Array;
  /** The bytes as text; a character may be cut in two between pieces. */
  text: string;
}

/** How a command has ended. */
export interface ExitStatus {
  /** `null`: it was killed at its timeout. */
  returncode: number | null;
  timed_out: boolean;
}

/** A command that was started; it goes on while clients come and go. */
export class Command {
  readonly #at: { path: { name: string; exec: string } };

  constructor(
    readonly server: Server,
    readonly sandbox: string,
    readonly id: string,
  ) {
    this.#at = { path: { name: sandbox, exec: id } };
  }

  /** Reads the output until the command has ended, and returns how. A lost connection is made again, without a gap. */
  async *output(options: Reconnection & { after?: string } = {}): AsyncGenerator<Piece, ExitStatus | undefined, void> {
    const messages = resumedEvents(
      (after, signal) => this.#open(after, signal),
      options.after,
      options,
      ({ event }) => event === "exit" || event === "error",
    );
    for await (const { id, event, data } of messages) {
      const value = JSON.parse(data) as { text?: string; base64?: string };
      if (event === "error") throw errorOf(value, new Response());
      if (event === "exit") return value as unknown as ExitStatus;
      const bytes = value.base64 === undefined ? new TextEncoder().encode(value.text) : fromBase64(value.base64);
      const text = value.text ?? toText(bytes);
      yield { id: id ?? "", stream: event === "stderr" ? "stderr" : "stdout", bytes, text };
    }
    return undefined; // aborted
  }

  /** Writes to standard input; `end` closes it afterwards. */
  async write(contents: Contents, { end = false }: { end?: boolean } = {}): Promise<void> {
    const params = { ...this.#at, query: { end } };
    await this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/execs/{exec}/stdin", { params, ...sent(contents) }),
    );
  }

  /** Closes standard input. */
  async end(): Promise<void> {
    await this.write("", { end: true });
  }

  /** Sends a signal, by name such as `TERM`, or by number. */
  async signal(signal: string | number): Promise<void> {
    const body = { signal };
    await this.server.take(
      this.server.api.POST("/v1/sandboxes/{name}/execs/{exec}/signal", { params: this.#at, body }),
    );
  }

  /** The state of the command. */
  async inspect(): Promise<CommandState> {
    return this.server.take(
      this.server.api.GET("/v1/sandboxes/{name}/execs/{exec}", { params: this.#at }),
    );
  }

  /** Waits until the command has ended. Much output must be read meanwhile: the command waits for its reader. */
  async wait(): Promise<CommandState> {
    for (;;) {
      const state = await this.server.take(
        this.server.api.GET("/v1/sandboxes/{name}/execs/{exec}/wait", {
          params: { ...this.#at, query: { timeout_s: 60 } },
        }),
      );
      if (state.ended_at !== null) return state;
    }
  }

  /** Kills the command with everything that it started. */
  async kill(): Promise<void> {
    await this.server.take(
      this.server.api.DELETE("/v1/sandboxes/{name}/execs/{exec}", { params: this.#at }),
    );
  }

  /** Attaches to the command with a WebSocket: output, input, signals, and the size of its terminal. */
  async attach(options: { after?: number } = {}): Promise<Terminal> {
    return Terminal.open(this.server, this.sandbox, this.id, options.after);
  }

  async #open(after: string | undefined, signal: AbortSignal | undefined): Promise<Opened> {
    const body = await this.server.take(
      this.server.api.GET("/v1/sandboxes/{name}/execs/{exec}/output", {
        params: { ...this.#at, query: after === undefined ? {} : { after: Number(after) } },
        parseAs: "stream",
        signal: signal ?? null,
      }),
    );
    return { body: body as ReadableStream<Uint8Array> };
  }
}
