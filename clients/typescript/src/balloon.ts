import { errorOf } from "./errors.js";
import type { components } from "./generated/api.js";
import type { Server } from "./server.js";
import { resumedEvents, type Opened, type Reconnection } from "./sse.js";

type Schemas = components["schemas"];
/** MiB, or text such as `1.5G`. */
export type Size = number | string;
export type BalloonState = Schemas["BalloonSnapshot"];
export type TargetOptions = Omit<Schemas["TargetBody"], "target">;

/** The balloon of a sandbox, which moves its memory. */
export class Balloon {
  constructor(
    readonly server: Server,
    readonly name: string,
  ) {}

  get #at(): { path: { name: string } } {
    return { path: { name: this.name } };
  }

  /** The state of the balloon. */
  async get(): Promise<BalloonState> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/balloon", { params: this.#at }));
  }

  /** Sets the target; with `wait`, returns when the guest has reached it, or has stopped on the way. */
  async set(target: Size, options: TargetOptions = {}): Promise<Schemas["SetReply"]> {
    const body = { target, ...options };
    return this.server.take(this.server.api.PUT("/v1/sandboxes/{name}/balloon", { params: this.#at, body }));
  }

  /** Sets an upper limit for targets; `null`: the ceiling. */
  async limit(limit: Size | null): Promise<BalloonState> {
    const body = { limit };
    return this.server.take(
      this.server.api.PUT("/v1/sandboxes/{name}/balloon/limit", { params: this.#at, body }),
    );
  }

  /** Reclaims memory that the guest does not need. */
  async trim(): Promise<Schemas["TrimResult"]> {
    return this.server.take(this.server.api.POST("/v1/sandboxes/{name}/balloon/trim", { params: this.#at }));
  }

  /** The state now, and after each change, until the sandbox ends. */
  async *watch(options: Reconnection = {}): AsyncGenerator<BalloonState, void, void> {
    const open = async (_: string | undefined, signal: AbortSignal | undefined): Promise<Opened> => {
      const body = await this.server.take(
        this.server.api.GET("/v1/sandboxes/{name}/balloon/watch", {
          params: this.#at,
          parseAs: "stream",
          signal: signal ?? null,
        }),
      );
      return { body: body as ReadableStream<Uint8Array> };
    };
    const messages = resumedEvents(open, undefined, options, ({ event }) => event === "end");
    for await (const { event, data } of messages) {
      const value: unknown = JSON.parse(data);
      if (event === "end") throw errorOf(value, new Response());
      yield value as BalloonState;
    }
  }
}
