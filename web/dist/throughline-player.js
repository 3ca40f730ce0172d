// <throughline-player stream="name" [server="https://host:port"] [play-key="…"] [muted]></throughline-player>
// Shows the player of a Throughline server on any page: a frame that keeps 16:9 and may go full screen.
const home = new URL(import.meta.url).origin;

class ThroughlinePlayer extends HTMLElement {
  static observedAttributes = ['stream', 'server', 'play-key', 'muted'];

  connectedCallback() {
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
    root.innerHTML = '<style>:host{display:block;aspect-ratio:16/9;background:#000}iframe{width:100%;height:100%;border:0;display:block}</style>';
    this.frame = document.createElement('iframe');
    this.frame.allow = 'autoplay; fullscreen; picture-in-picture';
    this.frame.title = `Live: ${this.getAttribute('stream') ?? ''}`;
    root.append(this.frame);
    this.show();
  }

  attributeChangedCallback() {
    this.show();
  }

  show() {
    const stream = this.getAttribute('stream');
    if (!this.frame || !stream) return;
    const url = new URL(`/watch/${encodeURIComponent(stream)}`, this.getAttribute('server') ?? home);
    url.searchParams.set('embed', '1');
    if (this.hasAttribute('muted')) url.searchParams.set('muted', '1');
    const key = this.getAttribute('play-key');
    if (key) url.hash = `key=${encodeURIComponent(key)}`; // a fragment is sent to no server
    if (this.frame.src !== url.href) this.frame.src = url.href;
  }
}

customElements.define('throughline-player', ThroughlinePlayer);
