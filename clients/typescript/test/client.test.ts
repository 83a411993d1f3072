/** The client with a real server and a real sandbox: BALLONET_SOCKET, and BALLONET_URL with BALLONET_TOKEN. */
import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { createServer, request, type Server as HttpServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { after, before, test } from "node:test";

import { BallonetError, CommandFailedError, Sandbox, Server } from "ballonet";
import { nodeServer } from "ballonet/node";

const { BALLONET_SOCKET: socketPath = "", BALLONET_URL: url = "", BALLONET_TOKEN: token = "" } = process.env;
const local = nodeServer({ socketPath });
/** Node's own fetch. */
const remote = new Server({ url, token });
const remoteWithSockets = nodeServer({ url, token });

let box: Sandbox;

before(async () => {
  box = await Sandbox.create(local, {
    name: "typed",
    memory: 256,
    balloon: { min: 128 },
    labels: { team: "web" },
    env: { WHO: "you" },
  });
});

after(async () => {
  await box.remove({ force: true });
});

for (const [how, server] of [
  ["the Unix socket", local],
  ["TCP", remote],
] as const) {
  test(`a command runs to its end over ${how}`, async () => {
    const there = await Sandbox.get(server, "typed");
    const done = await there.exec(["sh", "-c", "cat; echo $WHO; printf '\\377' >&2; exit 3"], { stdin: "né\n" });
    assert.deepEqual([done.returncode, done.timed_out, done.stdout], [3, false, "né\nyou\n"]);
    assert.deepEqual([...done.stderr_bytes], [0xff]);
    const failing = there.exec(["sh", "-c", "echo no >&2; exit 4"], { check: true });
    await assert.rejects(failing, (error) => error instanceof CommandFailedError && /status 4: no$/.test(error.message));
    const late = await there.exec(["sh", "-c", "echo begun; sleep 1000"], { timeout_s: 2 });
    assert.deepEqual([late.returncode, late.timed_out, late.stdout], [null, true, "begun\n"]);
  });

  test(`files of any size go both ways over ${how}`, async () => {
    const files = new Sandbox(server, "typed").files;
    const sent = createHash("sha256");
    let left = 12;
    const contents = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (left === 0) {
          controller.close();
          return;
        }
        const piece = new Uint8Array(1 << 20).fill(left);
        left -= 1;
        sent.update(piece);
        controller.enqueue(piece);
      },
    });
    await files.write("/tmp/d/big", contents, { parents: true, mode: "600" });
    const received = createHash("sha256");
    for await (const piece of await files.stream("/tmp/d/big")) received.update(piece);
    assert.equal(received.digest("hex"), sent.digest("hex"));
    assert.deepEqual([...(await files.read("/tmp/d/big", { start: (1 << 20) - 1, end: (1 << 20) + 1 }))], [12, 11]);
    await files.write("/tmp/d/é", "text\n");
    assert.equal(await files.readText("/tmp/d/é"), "text\n");
    await files.write("/tmp/d/empty", "");
    assert.equal(await files.readText("/tmp/d/empty"), "");
    assert.deepEqual((await files.list("/tmp/d")).map(({ name }) => name), ["big", "empty", "é"]);
    assert.deepEqual((await files.stat("/tmp/d/big")).mode, 0o600);
    await files.mkdir("/tmp/d/e");
    await files.unpack("/tmp/d/e", await new Response(await files.pack("/tmp/d/empty")).blob());
    assert.equal((await files.stat("/tmp/d/e/empty")).size, 0);
    await files.remove("/tmp/d", { recursive: true });
    await assert.rejects(files.read("/tmp/d/big"), { code: "not-found", status: 404 });
  });
}

test("what the server refuses is an error with its code", async () => {
  await assert.rejects(
    Sandbox.get(local, "nobody"),
    (error) => error instanceof BallonetError && error.code === "unknown-sandbox" && error.status === 404,
  );
  await assert.rejects(Sandbox.create(local, { name: "typed" }), { code: "name-in-use", status: 409 });
  await assert.rejects(Sandbox.list(new Server({ url, token: "wrong" })), { status: 401 });
  await assert.rejects(box.execStream(["no-such-program"]), { code: "guest-command" });
});

test("sandboxes are listed and described", async () => {
  assert.deepEqual((await Sandbox.list(local, { name: "typ*", state: "running" })).map(({ name }) => name), ["typed"]);
  assert.deepEqual(await Sandbox.list(local, { state: "stopped" }), []);
  const details = await box.inspect();
  assert.deepEqual([details.ceiling_mib, details.labels], [256, { team: "web" }]);
  const changes = await box.modify({ weight: 7 });
  assert.deepEqual(changes.map(({ setting, state }) => [setting, state]), [["weight", "done"]]);
  assert.ok((await box.history()).length > 0);
  assert.ok((await box.stats()).host !== null);
  assert.ok(((await box.usage()).cpu_s ?? 0) > 0);
  assert.deepEqual((await Sandbox.list(local, { label: ["team=web"] })).map(({ name }) => name), ["typed"]);
  assert.deepEqual(await Sandbox.list(local, { label: ["team=web", "other"] }), []);
  assert.equal((await local.version()).api, "v1");
});

test("one key creates one sandbox", async () => {
  const settings = { memory: 128, start: false };
  const options = { idempotencyKey: randomUUID() };
  const made = await Promise.all([1, 2, 3].map(() => Sandbox.create(local, settings, options)));
  assert.equal(new Set(made.map(({ name }) => name)).size, 1);
  const renamed = await made[0]?.rename("typed-2");
  assert.equal((await renamed?.inspect())?.name, "typed-2");
  await renamed?.remove();
});

test("a balloon moves and is watched", async () => {
  const watching = box.balloon.watch();
  assert.equal((await watching.next()).value?.ceiling_mib, 256);
  const reply = await box.balloon.set("192M", { wait: true, timeout_s: 120 });
  assert.deepEqual([reply.target_mib, reply.outcome], [192, "settled"]);
  for await (const { target_mib } of watching) if (target_mib === 192) break;
  assert.equal((await box.balloon.get()).target_mib, 192);
});

test("output is streamed, and input too", async () => {
  const command = await box.execStream(["sh", "-c", "cat; echo err >&2; exit 5"], { stdin: true });
  await command.write("one\n");
  const reading = command.output();
  assert.equal((await reading.next()).value && "one\n", "one\n");
  await command.write(new Uint8Array([0xff]), { end: true });
  const found: [string, number[]][] = [];
  for (;;) {
    const { done, value } = await reading.next();
    if (done) {
      assert.deepEqual(value, { returncode: 5, timed_out: false });
      break;
    }
    found.push([value.stream, [...value.bytes]]);
  }
  found.sort();
  assert.deepEqual(found, [["stderr", [...Buffer.from("err\n")]], ["stdout", [0xff]]]);
  assert.equal((await command.wait()).returncode, 5);
  const sleeping = await box.execStream(["sleep", "1000"]);
  await sleeping.signal("TERM");
  assert.equal((await sleeping.wait()).returncode, 143);
  const killed = await box.execStream(["sleep", "1000"]);
  await killed.kill();
  await assert.rejects(killed.inspect(), { code: "unknown-exec" });
});

test("a terminal has a size, takes signals, and goes on without its client", async () => {
  const there = new Sandbox(remoteWithSockets, "typed");
  const terminal = await there.terminal(["sh"], { rows: 30, cols: 90 });
  const until = async (text: string): Promise<string> => {
    let seen = "";
    for await (const { bytes } of terminal) {
      seen += Buffer.from(bytes).toString();
      if (seen.includes(text)) return seen;
    }
    throw new Error(`the terminal ended before ${text}: ${seen}`);
  };
  terminal.write("stty size; echo do''ne\n");
  assert.match(await until("done\r\n"), /30 90/);
  terminal.resize(40, 100);
  terminal.write("stty size; x=kept; echo do''ne2\n");
  assert.match(await until("done2\r\n"), /40 100/);
  terminal.close();
  assert.equal(await terminal.exit, undefined);
  const again = await there.command(terminal.id).attach({ after: terminal.received });
  again.write("echo [$x]; exit 6\n");
  let rest = "";
  for await (const { bytes } of again) rest += Buffer.from(bytes).toString();
  assert.match(rest, /\[kept\]/);
  assert.deepEqual(await again.exit, { returncode: 6, timed_out: false });
  await assert.rejects(there.command("0".repeat(16)).attach(), { code: "unknown-exec" });
});

/** A proxy in front of the Unix socket whose connections can be broken. */
class Breakable {
  readonly #sockets = new Set<Socket>();
  readonly #server: HttpServer;
  requests: string[] = [];

  constructor() {
    this.#server = createServer((incoming, outgoing) => {
      this.requests.push(incoming.url ?? "");
      const { method, headers, url: path } = incoming;
      const passed = request({ socketPath, path, method, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.on("error", () => outgoing.destroy()).pipe(outgoing);
      });
      outgoing.on("close", () => passed.destroy());
      passed.on("error", () => outgoing.destroy());
      incoming.on("error", () => passed.destroy()).pipe(passed);
    });
    this.#server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  async listen(): Promise<Server> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return new Server({ url: `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}` });
  }

  /** Breaks all connections. */
  break(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.break();
  }
}

test("streams go on where they were when a connection is lost", async () => {
  const proxy = new Breakable();
  try {
    const server = await proxy.listen();
    const script = "i=0; while [ $i -lt 6 ]; do read x; echo line $i; i=$((i+1)); done";
    const command = await new Sandbox(server, "typed").execStream(["sh", "-c", script], { stdin: true });
    const lines: string[] = [];
    await command.write("go\n");
    for await (const { text } of command.output()) {
      lines.push(text);
      proxy.break();
      if (lines.length < 6) await box.command(command.id).write("go\n");
    }
    assert.deepEqual(lines, [0, 1, 2, 3, 4, 5].map((number) => `line ${number}\n`));
    assert.ok(proxy.requests.filter((path) => path.includes("/output?after=")).length > 1);

    const events = server.events();
    const next = events.next();
    while (!proxy.requests.includes("/v1/events")) await new Promise((resolve) => setTimeout(resolve, 20));
    // Before the first event, and between two of them.
    const made = await Sandbox.create(local, { memory: 128, start: false });
    const first = await next;
    proxy.break();
    await made.remove();
    const found = [first.value];
    for await (const event of events) {
      found.push(event);
      if (event.type === "removed" && event.data["name"] === made.name) break;
    }
    const own = found.filter((event) => event?.data["name"] === made.name).map((event) => event?.type);
    assert.deepEqual(own, ["created", "removed"]);
    assert.ok(proxy.requests.filter((path) => path.startsWith("/v1/events?after=")).length > 0);
  } finally {
    proxy.close();
  }
});

test("a stream ends when it is aborted, and fails when the server stays away", async () => {
  const aborting = new AbortController();
  const events = local.events({ signal: aborting.signal });
  const next = events.next();
  aborting.abort();
  assert.equal((await next).done, true);

  const proxy = new Breakable();
  const lost = (await proxy.listen()).events({ retry_s: 0 });
  const failing = lost.next();
  while (proxy.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  proxy.close();
  await assert.rejects(failing);
});
