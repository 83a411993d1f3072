export { Balloon, type BalloonState, type Size, type TargetOptions } from "./balloon.js";
export { Command, type CommandState, type ExitStatus, type Piece, type StartOptions } from "./command.js";
export { BallonetError, type Problem } from "./errors.js";
export type { EventsOptions, ServerEvent } from "./events.js";
export { Files, type Contents, type FileInfo, type Range, type WriteOptions } from "./files.js";
export type { components, operations, paths } from "./generated/api.js";
export {
  CommandFailedError,
  Sandbox,
  type Change,
  type CreateSettings,
  type End,
  type ExecOptions,
  type ExecResult,
  type ListQuery,
  type ModifySettings,
  type SandboxDetails,
  type SandboxRow,
} from "./sandbox.js";
export { Server, type ServerOptions, type WebSocketClass } from "./server.js";
export type { Reconnection } from "./sse.js";
export { Terminal, type TerminalOutput } from "./terminal.js";
