import { Sandbox } from "ballonet";
import { connect } from "./connection.js";

const box = await Sandbox.create(connect(), { memory: "128M" });
try {
  const terminal = await box.terminal(["sh"], { rows: 30, cols: 90 });
  terminal.write("stty size\nexit 6\n");
  for await (const { bytes } of terminal) {
    process.stdout.write(bytes);
  }
  console.log(`status ${(await terminal.exit)?.returncode}`);
} finally {
  await box.remove({ force: true });
}
