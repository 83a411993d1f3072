// The connection to the HTTP API: the token, requests, streams of events, and WebSockets.

import { EventParser } from "./event_parser.js";

const KEY = "ballonet.token";

/** A request failed. `problem` is the server's problem document, if it sent one. */
export class ApiError extends Error {
  constructor(message, status = 0, problem = null) {
    super(message);
    this.status = status;
    this.problem = problem;
  }

  static async of(response) {
    let problem = null;
    try {
      problem = await response.json();
    } catch {
      // not a document of this server
    }
    const detail = problem?.detail ?? `the server answered with status ${response.status}`;
    return new ApiError(problem?.hint ? `${detail} (${problem.hint})` : detail, response.status, problem);
  }
}

/** For this tab only: it is never sent but as a header, and never stored in a cookie. */
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

function addressOf(path) {
  return new URL(path, document.baseURI);
}

async function send(path, options) {
  const headers = new Headers(options.headers);
  const text = token.get();
  if (text) headers.set("Authorization", `Bearer ${text}`);
  let response;
  try {
    response = await fetch(addressOf(path), { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server cannot be reached");
  }
  if (!response.ok) throw await ApiError.of(response);
  return response;
}

/** Make a request with a JSON body; returns the JSON document of the response, or null. */
export async function request(method, path, body, { signal } = {}) {
  const options = { method, signal, headers: {} };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

/** The address of an operation on a sandbox. */
export function of(name, rest = "") {
  return `v1/sandboxes/${encodeURIComponent(name)}${rest}`;
}

/** Read server-sent events until the stream ends. EventSource cannot send a token. */
export async function* events(path, { signal, after } = {}) {
  const headers = after ? { "Last-Event-ID": after } : {};
  const response = await send(path, { signal, headers });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Open a WebSocket. A browser cannot set its headers: the token is one of the subprotocols. */
export function webSocket(path) {
  const address = addressOf(path);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const text = token.get();
  const socket = new WebSocket(address, ["ballonet.v1", ...(text ? [`ballonet.token.${text}`] : [])]);
  socket.binaryType = "arraybuffer";
  return socket;
}
