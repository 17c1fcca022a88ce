// What is shown first, and what is said of it: the order of jobs, the health of workers, what waits for nobody.

import assert from "node:assert/strict";

import { eventually, same } from "./browser.mjs";
import { Client, Worker } from "./gearman.mjs";

export async function details(dashboard, port, say) {
  const client = new Client(port);
  await jobsHaveAnOrder(dashboard, port, client);
  say("order");
  dashboard.quiet();
}

// The rows of a table as they stand.
function rows(dashboard, id) {
  return dashboard.page.locator(`[data-table=${id}] tbody tr[data-row]`).evaluateAll((all) => all.map((row) => row.dataset.row));
}

// What runs comes first, though it came last; then what waits as it will be handed out; then what is not due.
async function jobsHaveAnOrder(dashboard, port, client) {
  const queued = [];
  const scheduled = await client.submit("crowd", { due: Math.floor(Date.now() / 1000) + 3600 });
  for (let index = 0; index < 70; index += 1) {
    queued.push(await client.submit("crowd"));
  }
  const running = await client.submit("crowd", { priority: "high" });
  const worker = new Worker(port, ["crowd"]);
  await eventually("its job", () => worker.jobs.length === 1);
  const next = await client.submit("crowd", { priority: "high" });
  const order = [running, next, ...queued];
  await dashboard.go("functions/crowd");
  await same("a function's first jobs", () => rows(dashboard, "function-jobs"), () => order.slice(0, 20));
  await dashboard.page.getByRole("link", { name: "All jobs" }).click();
  await same("its jobs", () => rows(dashboard, "jobs"), () => order.slice(0, 50));
  assert.match(await dashboard.value("order"), /^Jobs that run, then those that wait/);
  await dashboard.click("next-page");
  await same("the rest", () => rows(dashboard, "jobs"), () => [...order.slice(50), scheduled]);
  await dashboard.go("jobs");
  await same("no order", async () => (await dashboard.value("order")).startsWith("In no order."), () => true);
}
