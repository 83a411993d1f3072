// Runs the code of a session in Node.js (docs/agent.md). Requests arrive on descriptor 3, one JSON object on each line;
// what is said there is JSON, too. Standard output and standard error belong to the code.
"use strict";

const fs = require("fs");
const { createRequire } = require("module");
const net = require("net");
const path = require("path");
const repl = require("repl");
const { PassThrough, Writable } = require("stream");
const util = require("util");
const vm = require("vm");

const channel = new net.Socket({ fd: 3, readable: true, writable: true });
let interrupt = null; // ends the code that runs
let server = null; // for code with await

function say(kind, words) {
  channel.write(`${kind} ${JSON.stringify(words)}\n`);
}

function interrupted() {
  const error = new Error("the code was interrupted");
  error.name = "Interrupted";
  error.stack = `${error.name}: ${error.message}`;
  return error;
}

// Declarations with await at the top level have to be rewritten so that they stay; Node's own REPL does that.
function evaluateWithAwait(code) {
  if (server === null) {
    const silent = new Writable({ write: (piece, encoding, done) => done() });
    const input = new PassThrough();
    const options = { terminal: false, prompt: "", useGlobal: true, breakEvalOnSigint: true };
    server = repl.start({ input, output: silent, ...options });
  }
  return new Promise((resolve, reject) => {
    if (server._domain) {
      server._domain.emit = (event, error) => {
        reject(error);
        return true;
      };
    }
    server.eval(code + "\n", server.context, "code", (error, value) => {
      if (error === null || error === undefined) resolve({ value });
      else reject(error.err && error.name === "SyntaxError" ? error.err : error);
    });
    listenAgain();
  });
}

// What watches for SIGINT while the REPL runs a script leaves the default behaviour behind, which ends the process.
function listenAgain() {
  const listeners = process.listeners("SIGINT");
  process.removeAllListeners("SIGINT");
  for (const listener of listeners) process.on("SIGINT", listener);
}

async function evaluate(code, name) {
  try {
    if (/\bawait\b/.test(code)) {
      const stopped = new Promise((resolve, reject) => {
        interrupt = () => reject(interrupted());
      });
      return await Promise.race([evaluateWithAwait(code), stopped]);
    }
    const importing = { importModuleDynamically: (wanted) => import(wanted) };
    const script = new vm.Script(code, { filename: name, ...importing });
    return { value: script.runInThisContext({ breakOnSigint: true, displayErrors: false }) };
  } catch (error) {
    throw error && error.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED" ? interrupted() : error;
  }
}

function described(error) {
  if (!(error instanceof Error) && !(error && typeof error === "object" && "stack" in error)) {
    return { name: "Error", message: util.inspect(error), traceback: `Uncaught ${util.inspect(error)}` };
  }
  // Without the lines of this file.
  const lines = String(error.stack || error).split("\n");
  const own = lines.findIndex((line) => line.includes(__filename) || /^ +at .*node:(vm|repl|domain)/.test(line));
  const traceback = (own < 0 ? lines : lines.slice(0, own)).join("\n");
  return { name: String(error.name), message: String(error.message), traceback };
}

async function run(request) {
  const done = { id: request.id, error: null };
  try {
    const { value } = await evaluate(request.code, `<run ${request.id}>`);
    if (value !== undefined) {
      globalThis._ = value;
      say("m", { kind: "value", data: { "text/plain": util.inspect(value) } });
    }
  } catch (error) {
    done.error = described(error);
  }
  interrupt = null;
  say("d", done);
}

// An interrupt may come at any point of the code. Streams of Node that it leaves in the middle of a write would write
// nothing any more; these have no state.
class Output extends Writable {
  constructor(fd) {
    super({ decodeStrings: false });
    this.fd = fd;
  }

  write(piece, encoding, done) {
    let left = typeof piece === "string" ? Buffer.from(piece, typeof encoding === "string" ? encoding : "utf8") : piece;
    while (left.length > 0) {
      try {
        left = left.subarray(fs.writeSync(this.fd, left));
      } catch (error) {
        if (error.code !== "EAGAIN") throw error; // a child may have set O_NONBLOCK
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    }
    const told = typeof encoding === "function" ? encoding : done;
    if (typeof told === "function") process.nextTick(told);
    return true;
  }

  end(piece, encoding) {
    if (piece !== undefined && piece !== null && typeof piece !== "function") this.write(piece, encoding);
    return this;
  }
}
for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
  const output = new Output(fd);
  Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => output });
}
globalThis.console = new console.Console({ stdout: process.stdout, stderr: process.stderr });

process.on("SIGINT", () => interrupt !== null && interrupt());
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => process.stderr.write(`Uncaught ${util.inspect(error)}\n`));
}
globalThis.require = createRequire(path.join(process.cwd(), "code.js"));

let unread = "";
channel.setEncoding("utf8");
let last = Promise.resolve();
channel.on("data", (piece) => {
  const lines = (unread + piece).split("\n");
  unread = lines.pop();
  for (const line of lines) last = last.then(() => run(JSON.parse(line)));
});
channel.on("end", () => process.exit(0));
say("d", { id: 0, version: process.version.slice(1) });
