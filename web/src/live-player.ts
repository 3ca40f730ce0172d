// Plays one live stream and keeps playing: waits for it, reconnects, reloads. Knows nothing of the page around it.
import Hls, { ErrorDetails, Events, type ErrorData, type LevelDetails, type LoadPolicy, type MediaFragment } from 'hls.js';
import { gaplessControllers } from './gapless-controllers';

/** What the viewer should know. */
export type State = 'connecting' | 'waiting' | 'locked' | 'playing' | 'reconnecting' | 'ended' | 'unsupported';

export interface Level {
  index: number;
  label: string;
}

export interface Snapshot {
  state: State;
  /** Seconds between the camera's clock and the picture, as far as the playlist tells. */
  latency: number | null;
  /** The picture is as close to live as it is meant to be. */
  atLiveEdge: boolean;
  levels: Level[];
  /** Chosen level; -1 is automatic. */
  level: number;
  hasCaptions: boolean;
  /** A key was tried and did not fit. */
  keyRefused: boolean;
}

/** Before anything is known. */
export const START: Snapshot = { state: 'connecting', latency: null, atLiveEdge: true, levels: [], level: -1, hasCaptions: false, keyRefused: false };

const POLL_MS = 1000;
const WATCH_MS = 250;
/** Without progress for this long the viewer is told. */
const STALL_SHOWN_MS = 1500;
/** Without progress for this long the stream is loaded anew. */
const STALL_RELOAD_MS = 8000;
/** The same while the stream is in a gap. */
const GAP_RELOAD_MS = 60_000;
/** Without progress for this long, and by this many seconds before what the playlist has, the picture goes where it is. */
const OUTSIDE_MS = 500;
const OUTSIDE_SECONDS = 0.5;
/** Behind what could not be decoded the stream is loaded when the next segment is so much nearer to live than meant, in seconds: until the
 * picture is there, as much has passed. */
const JOIN_EARLY_SECONDS = 0.3;
/** Catching up stops when less than this is buffered, in seconds: the next part may be late. */
const AHEAD_MIN_SECONDS = 0.3;
/** Fastest playback to catch up, and how far off the target it begins and ends, in seconds. */
const RATE_MAX = 1.08;
const CATCH_UP_FROM_SECONDS = 0.1;
const CATCH_UP_TO_SECONDS = 0.03;
/** Each stall lets hls.js stay a second farther behind; after this long without one, half of that is taken back. */
const CALM_MS = 60_000;
const CALM_STEP_SECONDS = 0.5;
/** Farther behind than this the picture jumps to the live edge; below it plays a little faster. */
const BEHIND_MAX_SECONDS = 8;

/** A server that is gone for a moment is asked again soon, and for some seconds; hls.js by itself gives up a connection that is refused. */
const retrying = (policy: LoadPolicy, isWorthIt: (status: number) => boolean): LoadPolicy => ({
  default: {
    ...policy.default,
    errorRetry: {
      maxNumRetry: 10, retryDelayMs: 250, maxRetryDelayMs: 1000, backoff: 'linear',
      shouldRetry: (config, count, _isTimeout, response) => !!config && count < config.maxNumRetry && isWorthIt(response?.code ?? 0),
    },
  },
});
const isAway = (status: number): boolean => status === 0 || status >= 500;
/** Playlists are not there until the encoder is back. */
const isAwayOrNotBack = (status: number): boolean => isAway(status) || status === 404;

const isGap = (fragment: MediaFragment): boolean => fragment.tagList.some(([tag]) => tag === 'GAP');

export class LivePlayer {
  snapshot: Snapshot = START;

  #hls: Hls | null = null;
  #timers: ReturnType<typeof setInterval>[] = [];
  #poll: ReturnType<typeof setTimeout> | null = null;
  #lastTime = -1;
  #lastProgress = performance.now();
  #played = false;
  #ended = false;
  /** Where a picture could not be decoded, until the stream is loaded behind it. */
  #brokenAt: number | null = null;
  #isWaitingForMedia = false;
  #calmSince = performance.now();
  /** There was progress since the stream was loaded. */
  #isRunning = false;
  /** The viewer has paused: a stream that is loaded anew does not begin by itself. */
  #isHeld = false;
  #wantsCaptions = false;
  /** They are off in a stream that was loaded anew. */
  #owesCaptions = false;
  readonly #listening = new AbortController();
  #destroyed = false;

  /** The key is for streams that are not open to everybody. */
  constructor(
    private readonly video: HTMLVideoElement,
    private readonly url: string,
    private key: string | null,
    private readonly onChange: (snapshot: Snapshot) => void,
  ) {
    const { signal } = this.#listening;
    video.addEventListener('play', () => { if (!video.paused) this.#isHeld = false; }, { signal });
    video.addEventListener('playing', () => { this.#played = this.#isRunning = true; }, { signal });
    this.#timers.push(setInterval(() => this.#watch(), WATCH_MS));
    this.#load(); // most come while the stream runs: asking first would cost them a round trip
  }

  destroy(): void {
    this.#destroyed = true;
    this.#listening.abort();
    this.#timers.forEach(clearInterval);
    if (this.#poll) clearTimeout(this.#poll);
    this.#hls?.destroy();
  }

  /** Tries a key. */
  unlock(key: string): void {
    this.key = key;
    this.#isHeld = false;
    if (this.#poll) clearTimeout(this.#poll);
    this.#poll = null;
    this.#set({ state: 'connecting' });
    this.#load();
  }

  setLevel(index: number): void {
    if (this.#hls) this.#hls.nextLevel = index;
    this.#set({ level: index });
  }

  /** As the viewer wants; browsers pause too, where they give up or a page is hidden. */
  pause(): void {
    this.#isHeld = this.#isRunning;
    this.video.pause();
  }

  toLiveEdge(): void {
    const position = this.#hls?.liveSyncPosition ?? (this.video.seekable.length ? this.video.seekable.end(0) - 1 : null);
    if (position !== null && position !== undefined && this.video.readyState > 0) this.video.currentTime = position;
    void this.video.play().catch(() => {});
  }

  toggleCaptions(): void {
    const track = this.#captions();
    if (!track) return;
    this.#wantsCaptions = track.mode !== 'showing';
    this.#owesCaptions = false;
    track.mode = this.#wantsCaptions ? 'showing' : 'hidden';
  }

  /** Within the picture or beside it: the first that come. */
  #captions(): TextTrack | undefined {
    return [...this.video.textTracks].find((text) => text.kind === 'captions' || text.kind === 'subtitles');
  }

  #set(change: Partial<Snapshot>): void {
    this.snapshot = { ...this.snapshot, ...change };
    this.onChange(this.snapshot);
  }

  /** Asks for the stream until it is there, then loads it. */
  async #probe(): Promise<void> {
    if (this.#destroyed) return;
    this.#poll = null;
    let answer: Response | null = null;
    try {
      answer = await this.#ask();
    } catch {
      // the server is away: asked again below
    }
    if (this.#destroyed) return;
    if (answer?.ok && (!this.#ended || !(await this.#isSameEnded(await answer.text())))) {
      this.#load();
      return;
    }
    if (answer?.status === 401) this.#lock();
    else if (!this.#ended) this.#set({ state: answer && !this.#played ? 'waiting' : this.#played ? 'reconnecting' : 'connecting' });
    this.#poll = setTimeout(() => void this.#probe(), POLL_MS);
  }

  #ask(): Promise<Response> {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : undefined;
    return fetch(this.url, { cache: 'no-store', signal: AbortSignal.timeout(5000), headers });
  }

  /** A key is missing, or does not fit any more. The question is asked again: the stream may be opened. */
  #lock(): void {
    this.#set({ state: 'locked', latency: null, keyRefused: this.key !== null });
  }

  /** After an end: whether the playlist still names the broadcast that ended. */
  async #isSameEnded(text: string): Promise<boolean> {
    const media = text.split('\n').find((line) => line && !line.startsWith('#'));
    if (!media) return true;
    try {
      const answer = await fetch(new URL(media, new URL(this.url, location.href)), { cache: 'no-store' });
      return !answer.ok || (await answer.text()).includes('#EXT-X-ENDLIST');
    } catch {
      return true;
    }
  }

  #load(): void {
    this.#ended = false;
    this.#isRunning = false;
    this.#owesCaptions = this.#wantsCaptions;
    this.#brokenAt = null;
    this.#lastProgress = performance.now();
    this.#hls?.destroy();
    this.#hls = null;
    if (!Hls.isSupported()) {
      this.#loadNative();
      return;
    }
    const hls = new Hls({
      lowLatencyMode: true,
      backBufferLength: 30,
      enableWorker: true,
      startLevel: -1,
      playlistLoadPolicy: retrying(Hls.DefaultConfig.playlistLoadPolicy, isAwayOrNotBack),
      fragLoadPolicy: retrying(Hls.DefaultConfig.fragLoadPolicy, isAway),
      xhrSetup: (xhr, url) => {
        // Only the first playlist is guarded; what it names is the same for everybody.
        if (!this.key || url !== this.url) return;
        xhr.open('GET', url, true);
        xhr.setRequestHeader('Authorization', `Bearer ${this.key}`);
      },
      ...gaplessControllers,
    });
    this.#hls = hls;
    hls.on(Events.MANIFEST_PARSED, () => {
      const label = (height: number, bits: number): string => (height ? `${height}p` : `${Math.round(bits / 1000)} kbit/s`);
      this.#set({ levels: hls.levels.map((level, index) => ({ index, label: label(level.height, level.bitrate) })) });
      if (this.snapshot.level in hls.levels) hls.loadLevel = this.snapshot.level; // chosen before it was loaded anew
      this.#begin();
    });
    hls.on(Events.LEVEL_UPDATED, (_, data) => {
      if (!data.details.live) this.#ended = true;
    });
    hls.on(Events.ERROR, (_, data) => this.#onError(data));
    hls.loadSource(this.url);
    hls.attachMedia(this.video);
  }

  /** iPhones without Managed Media Source play by themselves. */
  #loadNative(): void {
    if (!this.video.canPlayType('application/vnd.apple.mpegurl')) {
      this.#set({ state: 'unsupported' });
      return;
    }
    this.video.src = this.key ? `${this.url}?key=${encodeURIComponent(this.key)}` : this.url;
    this.video.addEventListener('error', () => this.#restart(), { once: true });
    this.video.addEventListener('ended', () => { this.#ended = true; }, { once: true });
    this.#begin();
  }

  #begin(): void {
    if (this.#isHeld) this.#set({ state: 'playing', latency: null, atLiveEdge: false });
    else this.#play();
  }

  /** Plays; without sound where the browser forbids it before a tap. */
  #play(): void {
    this.video.play().catch((error: DOMException) => {
      if (this.#destroyed) return;
      if (error.name === 'NotAllowedError') {
        this.video.muted = true;
        void this.video.play().catch(() => {});
      } else if (error.name === 'AbortError') {
        setTimeout(() => { if (!this.#destroyed && this.video.paused && !this.#isHeld) this.#play(); }, 200); // a load came in between
      }
    });
  }

  /** Keeps the distance to live: hls.js itself catches up only while more than a second is buffered. */
  #pace(hls: Hls, behind: number, now: number): void {
    const { buffered, currentTime, playbackRate } = this.video;
    const ahead = buffered.length ? buffered.end(buffered.length - 1) - currentTime : 0;
    const isBehind = behind > (playbackRate > 1 ? CATCH_UP_TO_SECONDS : CATCH_UP_FROM_SECONDS);
    const rate = isBehind && ahead > AHEAD_MIN_SECONDS ? Math.min(RATE_MAX, 1.02 + Math.round(behind * 10) / 50) : 1;
    if (rate !== playbackRate) this.video.playbackRate = rate;
    const holdBack = hls.latestLevelDetails?.partHoldBack;
    if (holdBack && hls.targetLatency && hls.targetLatency > holdBack && now - this.#calmSince > CALM_MS) {
      hls.targetLatency = Math.max(holdBack, hls.targetLatency - CALM_STEP_SECONDS);
      this.#calmSince = now;
    }
  }

  #onError(data: ErrorData): void {
    if (data.details === ErrorDetails.BUFFER_STALLED_ERROR) this.#calmSince = performance.now();
    if (data.details === ErrorDetails.MEDIA_SOURCE_REQUIRES_RESET && !data.fatal) {
      this.#leave();
      return;
    }
    if (!data.fatal) return;
    if (data.response?.code === 401) this.#lock();
    this.#restart(data.response?.code && data.response.code !== 401 ? 'waiting' : null); // no answer at all: still connecting
  }

  /** Keeps the last picture and asks for the stream again. */
  #restart(state: State | null = 'waiting'): void {
    this.#hls?.stopLoad();
    if (!this.#ended && state) this.#set({ state: this.#played ? 'reconnecting' : state });
    if (!this.#poll) this.#poll = setTimeout(() => void this.#probe(), POLL_MS);
  }

  /** The browser gave up: a picture cannot be decoded, perhaps because one before it is missing. hls.js would lead it there again. */
  #leave(): void {
    // The picture's time is back at zero already; this is where hls.js has just begun anew.
    this.#brokenAt = Math.max(this.#hls?.startPosition ?? 0, this.#lastTime);
    this.#hls?.detachMedia(); // the playlist is followed all the same
  }

  /** Whether a segment behind this time is there that can be begun with. */
  #goesOnBehind(time: number, hls: Hls): boolean {
    const details = hls.latestLevelDetails;
    const ahead = (hls.targetLatency ?? 3) - JOIN_EARLY_SECONDS;
    return [...(details?.fragments ?? []), details?.fragmentHint].some((fragment) => {
      if (!details || !fragment || fragment.start <= time || details.edge - fragment.start < ahead || isGap(fragment)) return false;
      return details.partList?.find((part) => part.fragment.sn === fragment.sn)?.independent ?? true;
    });
  }

  /** Whether what is newest is missing, or what came after it is too little to begin with. */
  #endsInGap(details: LevelDetails): boolean {
    const gap = details.fragments.filter(isGap).at(-1);
    return gap !== undefined && details.edge - gap.end < (this.#hls?.targetLatency ?? 3) + 0.2;
  }

  #watch(): void {
    const now = performance.now();
    const time = this.video.currentTime;
    const advanced = this.#lastTime >= 0 && time > this.#lastTime && !this.video.seeking;
    this.#lastTime = time; // a reload begins at zero: no progress
    if (advanced) {
      this.#played = true;
      this.#isRunning = true;
      this.#isWaitingForMedia = false;
      this.#lastProgress = now;
      const latency = this.#hls?.latency || null;
      const target = this.#hls?.targetLatency ?? 3;
      const atLiveEdge = latency === null || latency < target + 1.5;
      if (latency !== null && latency > target + BEHIND_MAX_SECONDS) this.toLiveEdge(); // too far to catch up by speed
      if (latency !== null && this.#hls) this.#pace(this.#hls, latency - target, now);
      const captions = this.#captions();
      if (captions && this.#owesCaptions) {
        captions.mode = 'showing';
        this.#owesCaptions = false;
      }
      this.#set({ state: 'playing', latency, atLiveEdge, hasCaptions: captions !== undefined });
      return;
    }
    if (this.#brokenAt !== null && this.#hls && this.#goesOnBehind(this.#brokenAt, this.#hls)) {
      this.#load();
      return;
    }
    if (this.video.paused && this.#played && !this.#ended && this.#brokenAt === null) {
      this.#lastProgress = now;
      if (!this.#poll) this.#set({ state: 'playing', latency: null, atLiveEdge: false }); // it was perhaps told to come back by itself
      return;
    }
    const stalled = now - this.#lastProgress;
    const details = this.#hls?.latestLevelDetails;
    if (this.#played && this.#brokenAt === null && details?.live && stalled > OUTSIDE_MS && time < details.fragmentStart - OUTSIDE_SECONDS) {
      this.toLiveEdge(); // numbers jump when a server was started again, and hls.js takes it that as many segments were missed
    }
    if (this.#ended && this.#played && stalled > STALL_SHOWN_MS) {
      this.#isHeld = false; // the next broadcast begins by itself, as is said
      this.#set({ state: 'ended', latency: null });
      if (!this.#poll) this.#poll = setTimeout(() => void this.#probe(), POLL_MS);
    } else if (this.#played && details?.live && stalled > STALL_SHOWN_MS && stalled < GAP_RELOAD_MS && this.#endsInGap(details)) {
      this.#isWaitingForMedia = true; // loaded anew, hls.js would begin in the gap and wait there
      this.#set({ state: 'reconnecting', latency: null });
    } else if (this.#isWaitingForMedia) {
      this.#isWaitingForMedia = false;
      if (!this.#poll) this.#load();
    } else if (this.#hls && !this.#poll && stalled > STALL_RELOAD_MS) {
      this.#lastProgress = now;
      this.#restart();
    } else if (this.#played && !this.#ended && stalled > STALL_SHOWN_MS) {
      this.#set({ state: 'reconnecting', latency: null });
    }
  }
}
