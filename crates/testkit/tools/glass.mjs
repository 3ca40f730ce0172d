// Glass to glass: opens the player page in headless Chromium, reads the clock strip (clock.sh draws it) out of every frame
// that is presented, and prints one JSON object.
//   node glass.mjs --url URL --seconds 30 --after 12
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const options = { seconds: '30', after: '12' };
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];
const require = createRequire(new URL('../../../target/tools/package.json', import.meta.url));
const { chromium } = (await import(pathToFileURL(require.resolve('playwright-core')).href)).default;
const reader = fs.readFileSync(new URL('clock.js', import.meta.url), 'utf8');
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'glass-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium', headless: true, viewport: { width: 660, height: 460 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--disable-background-timer-throttling', '--disable-renderer-backgrounding'],
});
const page = await browser.newPage();
await page.addInitScript(`${reader}
window.glass = { began: performance.now(), first: null, samples: [], last: null, gaps: 0 };
const seek = setInterval(() => {
  const video = document.querySelector('video');
  if (!video) return;
  clearInterval(seek);
  const onFrame = (now, meta) => {
    const g = window.glass;
    g.first ??= Math.round(now - g.began);
    if (g.last !== null && now - g.last > 200) g.gaps += 1;
    g.last = now;
    const stamp = rigRead(video);
    if (stamp !== null) g.samples.push([now - g.began, performance.timeOrigin + meta.presentationTime - stamp]);
    video.requestVideoFrameCallback(onFrame);
  };
  video.requestVideoFrameCallback(onFrame);
}, 5);`);
await page.goto(options.url);
await new Promise((resolve) => setTimeout(resolve, 1000 * options.seconds));
const glass = await page.evaluate(() => window.glass);
const sorted = glass.samples.filter(([at]) => at > 1000 * options.after).map(([, latency]) => latency).sort((a, b) => a - b);
const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
console.log(JSON.stringify({ firstPictureMs: glass.first, frames: sorted.length, p50Ms: at(0.5), p95Ms: at(0.95), maxMs: at(1), gapsOver200ms: glass.gaps }));
await browser.close();
fs.rmSync(profile, { recursive: true, force: true });
