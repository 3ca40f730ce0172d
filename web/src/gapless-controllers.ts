// Goes on to the next segment where all of the one before is loaded.
//
// hls.js 1.7.4 looks for what comes next by time. The browser rounds the buffer's end to microseconds, and a playlist moves by
// a millisecond when sound and picture are aligned by PROGRAM-DATE-TIME: then it finds the segment it has, and loads nothing
// until the next one is complete, which is a stall. The parts know better what is loaded.
import Hls, { type HlsConfig, type LevelDetails, type MediaFragment } from 'hls.js';

/** Longest distance, in seconds, between the end of the buffer and the end of a segment that is wholly loaded. */
const TOLERANCE = 0.05;

interface Lookup {
  getFragmentAtPosition(bufferEnd: number, end: number, details: LevelDetails): MediaFragment | null;
}

function gapless<T>(controller: T): T {
  const Base = controller as unknown as new (...args: unknown[]) => Lookup;
  return class extends Base {
    override getFragmentAtPosition(bufferEnd: number, end: number, details: LevelDetails): MediaFragment | null {
      const found = super.getFragmentAtPosition(bufferEnd, end, details);
      if (!found || !details.live || Math.abs(found.end - bufferEnd) > TOLERANCE) return found;
      const lastPart = details.partList?.filter((part) => part.fragment.sn === found.sn).at(-1);
      if (!lastPart?.loaded || found.sn === details.fragmentHint?.sn) return found;
      const next = details.fragments[found.sn + 1 - details.startSN] ?? details.fragmentHint;
      return next?.sn === found.sn + 1 ? next : found;
    }
  } as unknown as T;
}

const { streamController, audioStreamController } = Hls.DefaultConfig;

export const gaplessControllers: Partial<HlsConfig> = {
  streamController: gapless(streamController),
  audioStreamController: gapless(audioStreamController),
};
