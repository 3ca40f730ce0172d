// The key to a stream that is not open to everybody. It comes in the link's fragment, which no server and no log sees, or from
// the viewer, and is kept as long as the tab.
const place = (stream: string): string => `play-key:${stream}`;

/** Takes the key out of the address bar, or finds the one that is kept. */
export function takeKey(stream: string): string | null {
  const given = new URLSearchParams(location.hash.slice(1)).get('key');
  if (given) {
    keepKey(stream, given);
    history.replaceState(history.state, '', location.pathname + location.search);
    return given;
  }
  try {
    return sessionStorage.getItem(place(stream));
  } catch {
    return null; // a frame on another site may not store anything
  }
}

export function keepKey(stream: string, key: string): void {
  try {
    sessionStorage.setItem(place(stream), key);
  } catch {
    // it holds until the page is loaded anew
  }
}
