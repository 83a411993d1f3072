import { toBytes } from "./bytes.js";
import type { ExitStatus } from "./command.js";
import { errorOf, type Problem } from "./errors.js";
import type { Server } from "./server.js";

const STDIN = 0;
const STDERR = 2;
const NORMAL_CLOSURE = 1000;

export interface TerminalOutput {
  stream: "stdout" | "stderr";
  bytes: Uint8Array;
}

/**
 * A WebSocket on a command. Read its output with `for await`, which ends with the command, when the connection is lost
 * or when the terminal is closed: {@link exit} says which. Output that is not read yet is kept in memory.
 */
export class Terminal implements AsyncIterable<TerminalOutput> {
  /** How the command has ended; `undefined`: the terminal was closed first. Rejected if the connection was lost. */
  readonly exit: Promise<ExitStatus | undefined>;
  /** How many pieces of output have arrived: after a lost connection, `command.attach({ after })` goes on there. */
  received: number;
  readonly #socket: WebSocket;
  readonly #unread: TerminalOutput[] = [];
  #wake: (() => void) | undefined;
  #over = false;
  #closed = false;

  private constructor(
    socket: WebSocket,
    /** The ID of the command, for `sandbox.command(id)`. */
    readonly id: string,
    after: number,
  ) {
    this.#socket = socket;
    this.received = after;
    this.exit = new Promise((resolve, reject) => {
      let last: ExitStatus | undefined;
      let failure: Error | undefined;
      socket.addEventListener("message", ({ data }: MessageEvent<string | ArrayBuffer>) => {
        if (typeof data !== "string") {
          this.#take(new Uint8Array(data));
          return;
        }
        const message = JSON.parse(data) as { exit?: ExitStatus; error?: Problem };
        last = message.exit;
        if (message.error !== undefined) failure = errorOf(message.error, new Response());
      });
      socket.addEventListener("close", ({ code, reason }) => {
        this.#over = true;
        this.#wake?.();
        if (failure !== undefined) reject(failure);
        else if (last !== undefined || this.#closed) resolve(last);
        else reject(new Error(`the connection was lost (${code}${reason === "" ? "" : `: ${reason}`})`));
      });
    });
    // Whoever does not ask how it ended need not handle that.
    this.exit.catch(() => undefined);
  }

  /** @internal */
  static async open(server: Server, sandbox: string, id: string, after = 0): Promise<Terminal> {
    const query = after === 0 ? "" : `?after=${after}`;
    const path = `/v1/sandboxes/${encodeURIComponent(sandbox)}/execs/${id}`;
    const socket = server.openSocket(`${path}/attach${query}`);
    const terminal = new Terminal(socket, id, after);
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener("open", () => resolve());
      socket.addEventListener("error", () => reject(new Error(`cannot attach to command ${id}`)));
    }).catch(async (error: unknown) => {
      // A WebSocket does not tell why it was refused: a request for the same command does.
      await server.take(
        server.api.GET("/v1/sandboxes/{name}/execs/{exec}", { params: { path: { name: sandbox, exec: id } } }),
      );
      throw error;
    });
    return terminal;
  }

  /** Writes to the command's standard input: what a person types. */
  write(data: string | Uint8Array): void {
    const bytes = toBytes(data);
    const message = new Uint8Array(bytes.length + 1);
    message[0] = STDIN;
    message.set(bytes, 1);
    this.#socket.send(message);
  }

  resize(rows: number, cols: number): void {
    this.#socket.send(JSON.stringify({ resize: { rows, cols } }));
  }

  signal(signal: string | number): void {
    this.#socket.send(JSON.stringify({ signal }));
  }

  /** Closes standard input. */
  end(): void {
    this.#socket.send(JSON.stringify({ end: true }));
  }

  /** Closes the connection. The command goes on, for a while. */
  close(): void {
    this.#closed = true;
    this.#socket.close(NORMAL_CLOSURE);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TerminalOutput, void, void> {
    for (;;) {
      const piece = this.#unread.shift();
      if (piece !== undefined) yield piece;
      else if (this.#over) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  #take(message: Uint8Array): void {
    this.received += 1;
    this.#unread.push({ stream: message[0] === STDERR ? "stderr" : "stdout", bytes: message.subarray(1) });
    this.#wake?.();
  }
}

