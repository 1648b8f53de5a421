// Checks a page of results in Chromium, at 390 and 1280 pixels, light and dark: no serious finding of axe-core, no
// sideways scrolling of the page as a whole, every link to a part of it leads there. `make check-page` runs it.
// With a third argument it also leaves screenshots and a printed PDF in that folder, to be looked at.
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [file, modules, pictures] = process.argv.slice(2);
if (!file || !modules) {
  console.error("usage: node scripts/check_page.mjs PAGE.html FOLDER_WITH_NODE_MODULES [PICTURES]");
  process.exit(2);
}
const require = createRequire(resolve(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
let serious = 0;
for (const width of [390, 1280]) {
  for (const colorScheme of ["light", "dark"]) {
    const name = `${width}-${colorScheme}`;
    const page = await browser.newPage({ viewport: { width, height: 1600 }, colorScheme });
    await page.goto(`file://${resolve(file)}`);
    await page.addScriptTag({ path: axe });
    const { violations } = await page.evaluate(() => window.axe.run(document));
    for (const { id, impact, help, nodes } of violations) {
      serious += ["serious", "critical"].includes(impact);
      console.log(`${name}: ${impact} ${id}: ${help} (${nodes.length}; first ${nodes[0].target} ${nodes[0].html.slice(0, 160)})`);
    }
    const { wide, lost } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
      lost: [...document.querySelectorAll('a[href^="#"]')].map((a) => a.hash.slice(1)).filter((id) => !document.getElementById(decodeURIComponent(id))),
    }));
    if (wide) console.log(`${name}: the page scrolls sideways`);
    if (lost.length) console.log(`${name}: links that lead nowhere: ${lost}`);
    serious += wide + lost.length;
    if (pictures) {
      await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
      if (name === "1280-light") await page.pdf({ path: `${pictures}/page.pdf`, preferCSSPageSize: true });
    }
    await page.close();
  }
}
await browser.close();
console.log(serious ? `${serious} serious findings` : "nothing serious");
process.exit(serious ? 1 : 0);
