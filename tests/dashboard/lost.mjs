// The server goes away and comes back: the page says so, and then shows the new one's numbers.

import assert from "node:assert/strict";
import readline from "node:readline";

import { eventually, same } from "./browser.mjs";
import { Client } from "./gearman.mjs";

export async function lost(dashboard, port, say) {
  const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  // The test that runs this stops and starts the server when it reads these words.
  const tell = async (word) => {
    say(word);
    assert.equal((await answers.next()).value, "done");
  };
  await new Client(port).submit("before");
  await dashboard.go("");
  await same("one job", () => dashboard.number("queued"), () => 1);
  await tell("stop");
  const banner = dashboard.page.locator("#banner [role=alert]");
  await banner.waitFor();
  assert.match(await banner.innerText(), /connection to the server is lost.*Numbers are of/is);
  await dashboard.go("functions");
  await dashboard.go("");
  assert.equal(await dashboard.number("queued"), 1, "the last numbers stay");
  await tell("start");
  await banner.waitFor({ state: "detached" });
  await dashboard.message("Connected again.");
  const client = new Client(port);
  await client.submit("after");
  await client.submit("after");
  await same("the new server's numbers", () => dashboard.number("queued"), async () => (await dashboard.api("server")).jobs.queued);
  await eventually("the lamp", () => dashboard.page.locator(".lamp-live").count());
  await dashboard.go("functions");
  await eventually("its functions", async () => "after" in (await dashboard.table("functions")));
  dashboard.quiet("ERR_", "Failed to load resource");
}
