/** For Node.js: servers on Unix sockets, WebSockets in Node.js 20, and requests that take longer than 5 minutes. */
import { Agent, Request, WebSocket, fetch, type RequestInfo } from "undici";
import { Server, type ServerOptions, type WebSocketClass } from "./server.js";

/** A server at an address, or on a Unix socket (`{ socketPath }`), where no token is needed. */
export function nodeServer(
  where: { url: string; token?: string } | { socketPath: string },
): Server {
  // Without them, undici ends a request whose response takes 5 minutes.
  const timeouts = { headersTimeout: 0, bodyTimeout: 0 };
  const unix = "socketPath" in where;
  const dispatcher = new Agent(unix ? { ...timeouts, connect: { socketPath: where.socketPath } } : timeouts);
  class Socket extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, { protocols, dispatcher });
    }
  }
  // The classes of undici are those of the Fetch standard; only the declarations differ.
  return new Server({
    ...(unix ? { url: "http://localhost" } : where),
    fetch: (request) => fetch(request as unknown as RequestInfo, { dispatcher }) as unknown as Promise<Response>,
    Request: Request as unknown as NonNullable<ServerOptions["Request"]>,
    WebSocket: Socket as unknown as WebSocketClass,
  });
}
