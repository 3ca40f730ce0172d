// Glass to glass: opens the player page in headless Chromium, reads the clock strip (clock.sh draws it) out of every frame
// that is presented, and prints one JSON object.
//   node glass.mjs --url URL --seconds 30 --after 12     delay from second 12 on; pauses of the picture from its first frame on
//   node glass.mjs --url URL --joins 30                  from the address to the first picture, each time with empty caches
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const options = { seconds: '30', after: '12' };
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];
const require = createRequire(new URL('../../../target/tools/package.json', import.meta.url));
const { chromium } = (await import(pathToFileURL(require.resolve('playwright-core')).href)).default;
const reader = fs.readFileSync(new URL('clock.js', import.meta.url), 'utf8');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium', headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--disable-background-timer-throttling', '--disable-renderer-backgrounding'],
});
const at = (sorted, share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
const script = `${reader}
window.glass = { began: performance.timeOrigin, first: null, samples: [], last: null, pauses: [] };
const seek = setInterval(() => {
  const video = document.querySelector('video');
  if (!video) return;
  clearInterval(seek);
  const onFrame = (now, meta) => {
    const g = window.glass;
    g.first ??= Math.round(now);
    if (g.last !== null && now - g.last > 200) g.pauses.push([Math.round(now), Math.round(now - g.last)]);
    g.last = now;
    const stamp = rigRead(video);
    if (stamp !== null) g.samples.push([now, performance.timeOrigin + meta.presentationTime - stamp]);
    video.requestVideoFrameCallback(onFrame);
  };
  video.requestVideoFrameCallback(onFrame);
}, 5);`;
const open = async () => {
  const context = await browser.newContext({ viewport: { width: 660, height: 460 } });
  const page = await context.newPage();
  await page.addInitScript(script);
  await page.goto(options.url);
  return { context, page };
};
if (options.joins) {
  const firsts = [];
  for (let i = 0; i < +options.joins; i += 1) {
    const { context, page } = await open();
    await page.waitForFunction(() => window.glass.first !== null, null, { polling: 50, timeout: 20000 });
    firsts.push(await page.evaluate(() => window.glass.first));
    await context.close();
  }
  firsts.sort((a, b) => a - b);
  console.log(JSON.stringify({ joins: firsts.length, p50Ms: at(firsts, 0.5), p95Ms: at(firsts, 0.95), maxMs: at(firsts, 1) }));
} else {
  const { page } = await open();
  await new Promise((resolve) => setTimeout(resolve, 1000 * options.seconds));
  const glass = await page.evaluate(() => window.glass);
  const sorted = glass.samples.filter(([when]) => when > 1000 * options.after).map(([, latency]) => latency).sort((a, b) => a - b);
  const delay = { p50Ms: at(sorted, 0.5), p95Ms: at(sorted, 0.95), maxMs: at(sorted, 1) };
  console.log(JSON.stringify({ firstPictureMs: glass.first, frames: sorted.length, ...delay, pausesOver200ms: glass.pauses }));
}
await browser.close();
