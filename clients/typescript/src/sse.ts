import { EventSourceParserStream, type EventSourceMessage } from "eventsource-parser/stream";
import { BallonetError } from "./errors.js";

/** How to go on after a lost connection. */
export interface Reconnection {
  /** Ends the stream. */
  signal?: AbortSignal;
  /** How long to try to connect again, in seconds; default: 60. Zero: not at all. */
  retry_s?: number;
}

/** What a request for a stream returned. */
export interface Opened {
  body: ReadableStream<Uint8Array>;
  /** The position of the stream, if the server says it. */
  id?: string | undefined;
}

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5000;

/**
 * Server-sent events over several connections: when one is lost, `open` is called again with the ID of the last event.
 *
 * @param open requests the stream after the event with that ID.
 * @param isLast whether the stream is complete with an event. Without one, the stream does not end by itself.
 */
export async function* resumedEvents(
  open: (after: string | undefined, signal: AbortSignal | undefined) => Promise<Opened>,
  after: string | undefined,
  { signal, retry_s = 60 }: Reconnection,
  isLast: (message: EventSourceMessage) => boolean = () => false,
): AsyncGenerator<EventSourceMessage, void, void> {
  let lostAt: number | undefined;
  let delay = FIRST_DELAY_MS;
  let connected = false;
  while (!signal?.aborted) {
    let failure: unknown;
    try {
      const opened = await open(after, signal);
      after ??= opened.id;
      for await (const message of messagesOf(opened.body)) {
        connected = true;
        lostAt = undefined;
        delay = FIRST_DELAY_MS;
        if (message.id) after = message.id;
        yield message;
        if (isLast(message)) return;
      }
      connected = true;
      failure = new Error("the server ended the stream");
    } catch (error) {
      if (signal?.aborted) return;
      // What the server refuses, it refuses again, except that it may be busy or about to stop.
      if (error instanceof BallonetError && error.status !== 503) throw error;
      if (!connected) throw error;
      failure = error;
    }
    lostAt ??= Date.now();
    if (Date.now() + delay > lostAt + retry_s * 1000) throw failure;
    await sleep(delay, signal);
    delay = Math.min(2 * delay, LONGEST_DELAY_MS);
  }
}

async function* messagesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<EventSourceMessage, void, void> {
  const reader = body
    .pipeThrough(new TextDecoderStream() as unknown as ReadableWritablePair<string, Uint8Array>)
    .pipeThrough(new EventSourceParserStream())
    .getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // Closes the connection. It may be lost already.
    await reader.cancel().catch(() => undefined);
  }
}

function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
}
