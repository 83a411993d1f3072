import type { components } from "./generated/api.js";

/** A problem document (RFC 9457), as the server sends it. */
export type Problem = components["schemas"]["Problem"];

/** The server refused a request, or a sandbox could not do what was asked. */
export class BallonetError extends Error {
  override readonly name = "BallonetError";

  constructor(readonly problem: Problem) {
    super(problem.hint ? `${problem.detail} (${problem.hint})` : problem.detail);
  }

  /** The stable code, for example `unknown-sandbox`. */
  get code(): string {
    return this.problem.code;
  }

  /** The HTTP status. */
  get status(): number {
    return this.problem.status;
  }

  /** What to do about it. */
  get hint(): string | undefined {
    return this.problem.hint ?? undefined;
  }
}

/** The error for a response. A proxy between client and server may answer with something else than a problem. */
export function errorOf(body: unknown, response: Response): BallonetError {
  if (typeof body === "object" && body !== null && "code" in body && "detail" in body) {
    return new BallonetError(body as Problem);
  }
  return new BallonetError({
    type: "about:blank",
    title: "The response is not from ballonet",
    status: response.status,
    detail: `the server answered with status ${response.status} and no problem document`,
    code: "unexpected-response",
  } as Problem);
}
