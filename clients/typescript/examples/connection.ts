import type { Server } from "ballonet";
import { nodeServer } from "ballonet/node";

/** The server of the examples: BALLONET_SOCKET, or BALLONET_URL with BALLONET_TOKEN. */
export function connect(): Server {
  const { BALLONET_SOCKET, BALLONET_URL, BALLONET_TOKEN } = process.env;
  if (BALLONET_SOCKET !== undefined) return nodeServer({ socketPath: BALLONET_SOCKET });
  if (BALLONET_URL === undefined) throw new Error("set BALLONET_SOCKET, or BALLONET_URL and BALLONET_TOKEN");
  return nodeServer({ url: BALLONET_URL, ...(BALLONET_TOKEN === undefined ? {} : { token: BALLONET_TOKEN }) });
}
