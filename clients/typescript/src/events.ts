import type { Server } from "./server.js";
import { resumedEvents, type Opened, type Reconnection } from "./sse.js";

/** Something that happened to a sandbox. */
export interface ServerEvent {
  /** With which {@link Server.events} goes on after it; events of a balloon's moves have none. */
  id: string | undefined;
  /** For example `created`, `stopped` or `balloon`; `reset`: events were missed. */
  type: string;
  data: Record<string, unknown>;
}

export interface EventsOptions extends Reconnection {
  /** Only what follows this event; default: from now on. */
  after?: string;
}

export async function* followEvents(
  server: Server,
  options: EventsOptions,
): AsyncGenerator<ServerEvent, void, void> {
  const messages = resumedEvents((after, signal) => open(server, after, signal), options.after, options);
  for await (const { id, event, data } of messages) {
    yield { id, type: event ?? "message", data: JSON.parse(data) as Record<string, unknown> };
  }
}

async function open(
  server: Server,
  after: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Opened> {
  const answer = server.api.GET("/v1/events", {
    params: { query: after === undefined ? {} : { after } },
    parseAs: "stream",
    signal: signal ?? null,
  });
  const body = (await server.take(answer)) as ReadableStream<Uint8Array>;
  return { body, id: (await answer).response.headers.get("last-event-id") ?? undefined };
}
