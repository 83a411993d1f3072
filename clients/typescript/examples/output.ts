import { Sandbox } from "ballonet";
import { connect } from "./connection.js";

const box = await Sandbox.create(connect(), { memory: "128M" });
try {
  const command = await box.execStream(["sh", "-c", "for i in 1 2 3; do echo $i; done; exit 3"]);
  for await (const { stream, text } of command.output()) {
    process.stdout.write(`${stream}: ${text}`);
  }
  console.log(`status ${(await command.wait()).returncode}`);
} finally {
  await box.remove({ force: true });
}
