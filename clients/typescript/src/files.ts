import type { components } from "./generated/api.js";
import { toBytes, toText } from "./bytes.js";
import type { Server } from "./server.js";

export type FileInfo = components["schemas"]["File"];
/** Contents to write. In browsers, a stream is sent only over HTTP/2: give a `Blob` there. */
export type Contents = string | Uint8Array | Blob | ReadableStream<Uint8Array>;

export interface Range {
  /** The first byte; default: 0. */
  start?: number;
  /** The byte after the last one; default: the end of the file. */
  end?: number;
}

export interface WriteOptions {
  /** Permissions, octal; default: `644`. */
  mode?: string;
  /** Create the directories above it first. */
  parents?: boolean;
}

/** The files of a guest, accessed as root. Paths are absolute. */
export class Files {
  constructor(
    readonly server: Server,
    readonly name: string,
  ) {}

  /** A file, or the bytes of a range of it. */
  async read(path: string, range: Range = {}): Promise<Uint8Array> {
    return new Uint8Array(await new Response(await this.stream(path, range)).arrayBuffer());
  }

  /** A file as text. Bytes that are not UTF-8 are replaced. */
  async readText(path: string): Promise<string> {
    return toText(await this.read(path));
  }

  /** A file of any size, as a stream. */
  async stream(path: string, { start = 0, end }: Range = {}): Promise<ReadableStream<Uint8Array>> {
    const whole = start === 0 && end === undefined;
    const body = await this.server.take(
      this.server.api.GET("/v1/sandboxes/{name}/files", {
        params: this.#at(path),
        parseAs: "stream",
        ...(whole ? {} : { headers: { Range: `bytes=${start}-${end === undefined ? "" : end - 1}` } }),
      }),
    );
    return (body ?? new Blob([]).stream()) as ReadableStream<Uint8Array>;
  }

  /** Replaces a file when all of its contents have arrived. */
  async write(path: string, contents: Contents, options: WriteOptions = {}): Promise<void> {
    const params = { path: { name: this.name }, query: { path, ...options } };
    await this.server.take(this.server.api.PUT("/v1/sandboxes/{name}/files", { params, ...sent(contents) }));
  }

  /** What is in a directory, sorted by name. */
  async list(path: string): Promise<FileInfo[]> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/files/list", { params: this.#at(path) }));
  }

  /** Describes a file; links are followed. */
  async stat(path: string): Promise<FileInfo> {
    return this.server.take(this.server.api.GET("/v1/sandboxes/{name}/files/stat", { params: this.#at(path) }));
  }

  async remove(path: string, options: { recursive?: boolean } = {}): Promise<void> {
    const params = { path: { name: this.name }, query: { path, ...options } };
    await this.server.take(this.server.api.DELETE("/v1/sandboxes/{name}/files", { params }));
  }

  async mkdir(path: string, options: { parents?: boolean } = {}): Promise<void> {
    const params = { path: { name: this.name } };
    const body = { path, ...options };
    await this.server.take(this.server.api.POST("/v1/sandboxes/{name}/files/mkdir", { params, body }));
  }

  /** A file or directory as a tar archive. */
  async pack(path: string): Promise<ReadableStream<Uint8Array>> {
    const body = await this.server.take(
      this.server.api.GET("/v1/sandboxes/{name}/archive", { params: this.#at(path), parseAs: "stream" }),
    );
    return body as ReadableStream<Uint8Array>;
  }

  /** Unpacks a tar archive in a directory. */
  async unpack(path: string, archive: Contents): Promise<void> {
    await this.server.take(
      this.server.api.PUT("/v1/sandboxes/{name}/archive", {
        params: this.#at(path),
        ...sent(archive, "application/x-tar"),
      }),
    );
  }

  #at(path: string): { path: { name: string }; query: { path: string } } {
    return { path: { name: this.name }, query: { path } };
  }
}

/** The options of a request with a body that is not JSON. */
export interface SentBody {
  body: unknown;
  bodySerializer: (body: unknown) => unknown;
  headers: Record<string, string>;
}

export function sent(contents: Contents, type = "application/octet-stream"): SentBody {
  return {
    body: typeof contents === "string" ? toBytes(contents) : contents,
    bodySerializer: (body: unknown) => body,
    headers: { "Content-Type": type },
    // Required for streams by the Fetch standard; the types of browsers do not have it yet.
    ...(contents instanceof ReadableStream ? { duplex: "half" } : {}),
  };
}
