import createClient, { type Client } from "openapi-fetch";
import { errorOf } from "./errors.js";
import { followEvents, type EventsOptions, type ServerEvent } from "./events.js";
import type { components, paths } from "./generated/api.js";

/** What the client uses of a WebSocket. */
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocket;

export interface ServerOptions {
  /** The address of `ballonet serve`, for example `http://127.0.0.1:8080`. */
  url: string;
  /** A token of `ballonet token create`. */
  token?: string;
  /** Instead of the global `fetch`. */
  fetch?: (request: Request) => Promise<Response>;
  /** The class of requests that `fetch` takes. */
  Request?: typeof Request;
  /** Instead of the global `WebSocket`, which Node.js has from version 22 on. */
  WebSocket?: WebSocketClass;
}

/** What openapi-fetch returns. */
interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The protocol of the WebSockets, and how a token is sent where no header can be set. */
const PROTOCOL = "ballonet.v1";
const TOKEN_PROTOCOL = "ballonet.token.";

/** A server, which is an address and a token: nothing is connected until it is used. */
export class Server {
  /** Every operation of the HTTP API with its types: `server.api.GET("/v1/images")`. */
  readonly api: Client<paths>;
  readonly #options: ServerOptions;

  constructor(options: ServerOptions) {
    this.#options = { ...options, url: options.url.replace(/\/+$/, "") };
    this.api = createClient<paths>({
      baseUrl: this.#options.url,
      ...(options.token === undefined ? {} : { headers: { Authorization: `Bearer ${options.token}` } }),
      ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
      ...(options.Request === undefined ? {} : { Request: options.Request }),
    });
  }

  /**
   * The result of an operation of {@link api}.
   * @throws {BallonetError} the server answered with a problem.
   */
  async take<T>(answer: Promise<Answer<T>>): Promise<T> {
    const { data, error, response } = await answer;
    if (!response.ok) throw errorOf(error, response);
    return data as T;
  }

  /**
   * Follows what happens to all sandboxes, from now on or after an event. If the connection is lost, the stream goes
   * on with the event after the last one.
   */
  events(options: EventsOptions = {}): AsyncGenerator<ServerEvent, void, void> {
    return followEvents(this, options);
  }

  /** The memory of the host and of all sandboxes. */
  async memory(): Promise<components["schemas"]["HostSamples"]> {
    return this.take(this.api.GET("/v1/memory"));
  }

  /** The versions of ballonet and of the API. */
  async version(): Promise<components["schemas"]["Version"]> {
    return this.take(this.api.GET("/v1/version"));
  }

  /** Opens a WebSocket at a path of the API. */
  openSocket(path: string): WebSocket {
    const Socket = this.#options.WebSocket ?? (globalThis as { WebSocket?: WebSocketClass }).WebSocket;
    if (Socket === undefined) {
      throw new TypeError(
        "there is no global WebSocket: give the option WebSocket, or use nodeServer() of 'ballonet/node'",
      );
    }
    const { url, token } = this.#options;
    const protocols = token === undefined ? [PROTOCOL] : [PROTOCOL, TOKEN_PROTOCOL + token];
    const socket = new Socket(url.replace(/^http/, "ws") + path, protocols);
    socket.binaryType = "arraybuffer";
    return socket;
  }
}
