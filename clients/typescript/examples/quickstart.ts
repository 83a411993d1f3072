import { Sandbox } from "ballonet";
import { connect } from "./connection.js";

const server = connect();

const box = await Sandbox.create(server, { memory: "256M", balloon: { min: "128M" }, labels: { team: "web" } });
try {
  const done = await box.exec(["uname", "-s"], { check: true });
  console.log(done.stdout.trim());

  await box.files.write("/tmp/greeting", "hello\n");
  console.log((await box.exec(["cat", "/tmp/greeting"])).stdout.trim());

  const reply = await box.balloon.set("192M", { wait: true, timeout_s: 120 });
  console.log(`target ${reply.target_mib} MiB: ${reply.outcome}`);
} finally {
  await box.remove({ force: true });
}
