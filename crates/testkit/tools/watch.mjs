// Watches a page in a real headless browser and prints what a viewer would see, one JSON object a line.
//   node watch.mjs --url URL --seconds 10 [--browser chromium|firefox] [--shot a.png] [--width 1280 --height 720] [--gesture 1] [--touch 1]
//   --frame 1 looks into the first frame of the page
// Each line: {t, state, latency, time, frames, audioBytes, width, height, muted, paused, ready, buffered, loads, felt}. The last line: {done: true, errors}.
// Commands on standard input, one a line: "stop" ends it early, "key K" types K where the page asks for a key,
// "reload" loads the page anew, "press K" presses a key on the keyboard.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const options = { browser: 'chromium', seconds: '10', width: '1280', height: '720' };
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];
const require = createRequire(process.env.TOOLS ? path.resolve(process.env.TOOLS, 'package.json') : new URL('../../../target/tools/package.json', import.meta.url));
const load = async (name) => { const m = await import(pathToFileURL(require.resolve(name)).href); return m.default ?? m; };
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'watch-'));
const viewport = { width: +options.width, height: +options.height };
let browser, page;
if (options.browser === 'firefox') {
  const puppeteer = await load('puppeteer-core');
  browser = await puppeteer.launch({
    browser: 'firefox', executablePath: '/usr/bin/firefox-esr', headless: true, userDataDir: profile, acceptInsecureCerts: true,
    extraPrefsFirefox: { 'media.autoplay.default': 0, 'media.autoplay.blocking_policy': 0, 'media.gmp-manager.url': '', 'network.captive-portal-service.enabled': false, 'network.connectivity-service.enabled': false, 'app.normandy.enabled': false },
  });
  page = await browser.newPage();
  await page.setViewport(viewport);
} else {
  const { chromium } = await load('playwright-core');
  const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-background-timer-throttling', '--disable-renderer-backgrounding'];
  if (!options.gesture) args.push('--autoplay-policy=no-user-gesture-required');
  browser = await chromium.launchPersistentContext(profile, { executablePath: '/usr/bin/chromium', headless: true, args, viewport, ignoreHTTPSErrors: true, hasTouch: !!options.touch, isMobile: !!options.touch, ...(options.gesture ? { ignoreDefaultArgs: ['--autoplay-policy=no-user-gesture-required'] } : {}) });
  page = await browser.newPage();
}
process.stdout.on('error', () => {}); // nobody listens any more
const errors = [];
let loads = 0;
page.on('pageerror', (error) => errors.push(String(error.message ?? error)));
page.on('load', () => { loads += 1; });
// Looked at from within the page, so that a busy machine between here and there is no stall: the picture's time stands still.
const feel = () => {
  const felt = { stalls: 0, longest: 0 };
  let time = 0, moved = 0, moves = 0, isStalled = false;
  window.felt = felt;
  setInterval(() => {
    const video = document.querySelector('video'), now = performance.now();
    if (video?.currentTime && video.currentTime !== time) { time = video.currentTime; moved = now; moves += 1; isStalled = false; return; }
    if (moves < 10 || now - moved < 150) return; // a jump to where it begins is no motion
    if (!isStalled) felt.stalls += 1;
    isStalled = true;
    felt.longest = Math.max(felt.longest, Math.round(now - moved));
  }, 25);
};
if (options.browser === 'firefox') await page.evaluateOnNewDocument(feel); else await page.addInitScript(feel);
const began = Date.now();
await page.goto(options.url);
const look = () => {
  const video = document.querySelector('video');
  const root = document.querySelector('.player');
  const quality = video?.getVideoPlaybackQuality?.();
  return {
    state: root?.dataset.state ?? '', latency: root?.dataset.latency ? Number(root.dataset.latency) : null,
    time: video?.currentTime ?? 0, frames: quality?.totalVideoFrames ?? 0, dropped: quality?.droppedVideoFrames ?? 0,
    audioBytes: video?.webkitAudioDecodedByteCount ?? (video?.mozHasAudio ? 1 : 0), width: video?.videoWidth ?? 0, height: video?.videoHeight ?? 0,
    muted: video?.muted ?? false, paused: video?.paused ?? true, ready: video?.readyState ?? 0, error: video?.error?.message ?? null,
    buffered: video && video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0, text: document.querySelector('.message')?.innerText ?? '',
    address: location.href, captions: [...(video?.textTracks ?? [])].filter((track) => track.mode === 'showing').flatMap((track) => [...(track.cues ?? [])].map((cue) => cue.text)).at(-1) ?? '',
    canCaption: !!document.querySelector('button[aria-label="Captions"]'),
    felt: window.felt, fullScreen: !!document.fullscreenElement, canTap: !!document.querySelector('.tap'),
  };
};
const watched = () => (options.frame ? page.frames()[1] ?? page.mainFrame() : page);
let stopped = false;
const commands = {
  stop: () => { stopped = true; },
  key: async (key) => { await page.fill('.key input', key); await page.click('.key button'); },
  reload: () => page.reload(),
  press: (key) => page.keyboard.press(key),
};
process.stdin.on('data', async (data) => {
  for (const line of String(data).split('\n').filter(Boolean)) {
    const [name, value] = line.split(' ');
    try { await commands[name](value); } catch (error) { errors.push(`${line}: ${error}`); }
  }
});
process.stdin.on('end', () => { stopped = true; }); // whoever started this is gone: the browser must not stay
process.stdin.on('error', () => { stopped = true; });
process.stdin.resume();
const end = began + 1000 * options.seconds;
while (Date.now() < end && !stopped) {
  try {
    if (stopped) break;
    console.log(JSON.stringify({ t: Date.now() - began, loads, ...(await watched().evaluate(look)) }));
  } catch (error) {
    errors.push(String(error).slice(0, 200));
  }
  if (options.tap && Date.now() - began > 1000 * options.tap) { await page.click('.surface'); options.tap = ''; }
  await new Promise((resolve) => setTimeout(resolve, 100));
}
if (options.shot) { await page.mouse.move(300, 300); await page.mouse.move(320, 320); await new Promise((resolve) => setTimeout(resolve, 500)); }
if (options.menu) await page.click('button[aria-label="Quality"]').catch(() => {});
if (options.shot) await page.screenshot({ path: options.shot });
console.log(JSON.stringify({ done: true, errors }));
await browser.close().catch(() => {});
fs.rmSync(profile, { recursive: true, force: true });
process.exit(0);
