// <ab-player>: the versions of a recording play in step, and one of them is heard. Switching is a change of gain, so
// it is immediate and sample-accurate. If sounds cannot be decoded, the browser's own players stay.
if (!customElements.get("ab-player")) {
  let context = null, playing = null;
  const make = (tag, name, text = "") => {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = text;
    return element;
  };
  const bytesOf = (uri) => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (char) => char.charCodeAt(0)).buffer;

  customElements.define("ab-player", class extends HTMLElement {
    connectedCallback() {
      if (!this.querySelector(".ab-bar")) this.build();
      // A page may put other versions into this element instead of making a new one, as Gradio does.
      this.watch = new MutationObserver(() => {
        if (this.made !== this.dataset.made || (!this.failed && !this.querySelector(".ab-bar"))) this.build();
      });
      this.watch.observe(this, { childList: true, attributes: true, attributeFilter: ["data-made"] });
    }

    build() {
      if (this.sources) this.stop();
      this.querySelectorAll(".ab-bar, .ab-told, .ab-cursor").forEach((old) => old.remove());
      this.classList.remove("ab-live", "ab-hidden");
      this.made = this.dataset.made, this.failed = false, this.buffers = this.tokens = null;
      this.figures = [...this.querySelectorAll("figure")];
      if (!this.figures.length || !window.AudioContext) return (this.failed = true);
      this.active = 0, this.offset = 0, this.sources = null, this.order = this.figures.map((_, index) => index);
      this.seconds = Math.max(...this.figures.map((one) => parseFloat(one.querySelector(".ab-axis span:last-child").textContent)));
      const bar = make("div", "ab-bar");
      this.button = make("button", "ab-play", "▶ Play");
      this.button.onclick = () => (this.sources ? this.stop() : this.play());
      this.choices = make("div", "ab-choices");
      this.choices.setAttribute("role", "group");
      this.choices.setAttribute("aria-label", "Version that is heard; number keys switch");
      this.time = make("span", "ab-time");
      this.blind = make("button", "ab-blind", "Blind");
      this.blind.title = "Shuffle the versions and hide their names";
      this.blind.onclick = () => this.shuffle();
      bar.append(this.button, this.choices, this.time, ...(this.figures.length > 1 ? [this.blind] : []));
      this.told = make("p", "ab-told");
      this.prepend(bar);
      this.append(this.told);
      this.cursors = this.figures.map((figure) => {
        const cursor = figure.querySelector(".ab-picture").appendChild(make("div", "ab-cursor"));
        figure.querySelector("audio").hidden = true;
        return cursor;
      });
      this.onpointerdown = (event) => this.point(event, true);
      this.onpointermove = (event) => this.point(event, event.buttons === 1);
      this.onkeydown = (event) => {
        const number = parseInt(event.key, 10) - 1;
        if (number >= 0 && number < this.figures.length && !event.ctrlKey && !event.metaKey) this.choose(number);
      };
      this.classList.add("ab-live");
      this.label();
    }

    disconnectedCallback() {
      this.watch.disconnect();
      if (this.sources) this.stop();
    }

    // Buttons in the order shown; in a blind comparison letters in place of names, and no pictures.
    label() {
      const hidden = this.classList.contains("ab-hidden");
      this.choices.replaceChildren(...this.order.map((index, place) => {
        const button = make("button", "", hidden ? String.fromCharCode(65 + place) : this.figures[index].dataset.name);
        button.setAttribute("aria-pressed", String(index === this.active));
        button.onclick = () => this.choose(place);
        return button;
      }));
      this.figures.forEach((figure, index) => (figure.hidden = hidden || index !== this.active));
      this.draw();
    }

    choose(place) {
      this.active = this.order[place];
      const focused = this.choices.contains(document.activeElement);
      this.label();
      if (focused) this.choices.children[place].focus();
      this.dispatchEvent(new CustomEvent("ab-choose", { bubbles: true, detail: this.figures[this.active].dataset.name }));
      if (this.gains) this.gains.forEach((gain, index) => gain.gain.setTargetAtTime(index === this.active ? 1 : 0, context.currentTime, 0.004));
    }

    shuffle() {
      const hide = this.classList.toggle("ab-hidden");
      const letters = this.order.map((index, place) => `${String.fromCharCode(65 + place)} is ${this.figures[index].dataset.name}`);
      this.told.textContent = hide ? "Names and pictures are hidden: listen, decide, then reveal." : letters.join(", ") + ".";
      this.blind.textContent = hide ? "Reveal" : "Blind";
      this.order = this.figures.map((_, index) => index);
      if (hide)
        for (let last = this.order.length - 1; last > 0; last--) {
          const other = Math.floor(Math.random() * (last + 1));
          [this.order[last], this.order[other]] = [this.order[other], this.order[last]];
        }
      if (hide) this.choose(0);
      else this.label();
    }

    async play(from = this.offset) {
      if (playing && playing !== this) playing.stop();
      context = context || new AudioContext();
      context.resume();
      if (!this.buffers) {
        this.button.textContent = "…";
        try {
          this.buffers = await Promise.all(this.figures.map((figure) => context.decodeAudioData(bytesOf(figure.querySelector("audio").src))));
        } catch (error) {
          this.failed = true;
          this.figures.forEach((figure) => ((figure.querySelector("audio").hidden = false), (figure.hidden = false)));
          this.querySelector(".ab-bar").remove();
          this.told.textContent = "This browser cannot decode the sounds in step; the players above work one by one.";
          return this.classList.remove("ab-live");
        }
        this.seconds = Math.max(...this.buffers.map((buffer) => buffer.duration));
      }
      if (!this.isConnected) return;
      playing = this;
      this.offset = from >= this.seconds - 0.02 ? 0 : from;
      this.started = context.currentTime + 0.03 - this.offset;
      this.gains = [];
      this.sources = this.buffers.map((buffer, index) => {
        const source = context.createBufferSource(), gain = context.createGain();
        source.buffer = buffer;
        gain.gain.value = index === this.active ? 1 : 0;
        source.connect(gain).connect(context.destination);
        source.start(context.currentTime + 0.03, Math.min(this.offset, buffer.duration));
        this.gains.push(gain);
        return source;
      });
      this.button.textContent = "❚❚ Pause";
      this.tick();
    }

    stop() {
      if (!this.sources) return;
      this.offset = this.now();
      this.sources.forEach((source) => source.stop());
      this.sources = this.gains = null;
      if (playing === this) playing = null;
      this.button.textContent = "▶ Play";
      this.draw();
    }

    now() {
      return this.sources ? Math.min(this.seconds, Math.max(0, context.currentTime - this.started)) : this.offset;
    }

    tick() {
      if (!this.sources) return;
      if (this.now() >= this.seconds) return this.stop(), (this.offset = 0), this.draw();
      this.draw();
      requestAnimationFrame(() => this.tick());
    }

    draw() {
      const share = this.seconds ? this.now() / this.seconds : 0;
      this.cursors.forEach((cursor) => (cursor.style.left = `${100 * share}%`));
      const heard = this.now();
      this.time.textContent = `${heard.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
      if (this.sources && !this.classList.contains("ab-hidden")) this.tell(heard);
    }

    // A click or drag on a picture seeks; the pointer over it asks for the token.
    point(event, seek) {
      const picture = event.target.closest(".ab-picture");
      if (!picture) return;
      const box = picture.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const strip = picture.querySelector(".ab-strip");
      const row = strip ? (event.clientY - strip.getBoundingClientRect().top) / strip.offsetHeight : 0;
      const token = this.tell(share * this.seconds, row);
      if (!seek) return;
      if (token && event.type === "pointerdown" && event.target === strip)
        this.dispatchEvent(new CustomEvent("ab-token", { bubbles: true, detail: { name: this.figures[this.active].dataset.name, ...token } }));
      const go = this.sources !== null;
      this.stop();
      this.offset = share * this.seconds;
      if (go) this.play();
      else this.draw();
    }

    tell(seconds, row = 0) {
      const strip = this.figures[this.active].querySelector(".ab-strip");
      if (!strip) return (this.told.textContent = ""), null;
      this.tokens = this.tokens || {};
      const { rate, codes, bits } = (this.tokens[this.active] = this.tokens[this.active] || JSON.parse(strip.dataset.tokens));
      const codebook = Math.min(codes.length - 1, Math.max(0, Math.floor(row * codes.length)));
      const frame = Math.min(codes[0].length - 1, Math.floor(seconds * rate));
      const which = codes.length > 1 ? `codebook ${codebook + 1}, ` : "";
      const first = Math.max(0, frame - Math.round(rate / 2)), last = Math.min(codes[0].length, frame + Math.round(rate / 2) + 1);
      const near = bits.reduce((sum, line) => sum + line.slice(first, last).reduce((a, b) => a + b, 0), 0) * rate / (last - first);
      this.told.textContent = `Token ${frame} (${(frame / rate).toFixed(2)} s, ${which}code ${codes[codebook][frame]}): `
        + `${bits[codebook][frame].toFixed(1)} bits; the second around it ${near.toFixed(0)} bit/s`;
      return { frame, codebook, code: codes[codebook][frame] };
    }
  });
}
