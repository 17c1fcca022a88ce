// Runs one test of the dashboard: node main.mjs TEST HTTP_URL GEARMAN_PORT. It prints what it has found to be so, and ends
// with status 1 where something is not.

import { Dashboard } from "./browser.mjs";

const [test, base, port] = process.argv.slice(2);
const { [test]: run } = await import(`./${test.split("_")[0]}.mjs`);
const dashboard = await Dashboard.open(base);
try {
  await run(dashboard, Number(port), (line) => console.log(line));
  console.log("passed");
  process.exitCode = 0;
} catch (error) {
  console.error(error.stack);
  console.error(`at ${dashboard.page.url()}; errors of the browser: ${JSON.stringify(dashboard.errors, null, 1)}`);
  console.error(await dashboard.page.locator("body").innerText().catch(() => "no text"));
  process.exitCode = 1;
} finally {
  await dashboard.close();
}
// Peers that are left keep their connections open.
process.exit();
