import { Sandbox } from "ballonet";
import { connect } from "./connection.js";

const server = connect();
const box = await Sandbox.create(server, { memory: "256M", balloon: { min: "128M" } });
try {
  const moving = box.balloon.set("200M");
  for await (const { target_mib } of box.balloon.watch()) {
    console.log(`target ${target_mib} MiB`);
    if (target_mib === 200) break;
  }
  await moving;
} finally {
  await box.remove({ force: true });
}
