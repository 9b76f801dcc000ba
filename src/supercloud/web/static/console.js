// A serial console: bytes both ways over a WebSocket that the page's session opens.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("terminal");
  const link = document.getElementById("link");
  const again = document.getElementById("again");
  const terminal = new Terminal({
    cols: 80,
    rows: 24,
    convertEol: false,
    cursorBlink: false,
    screenReaderMode: true,
    fontFamily: "ui-monospace, monospace",
    fontSize: matchMedia("(max-width: 700px)").matches ? 11 : 14,
    theme: { background: "#14181a", foreground: "#dfe5e4", cursor: "#7fd0c5" },
  });
  terminal.open(place);
  terminal.textarea.setAttribute("aria-label", `console of ${place.dataset.name}`);
  terminal.textarea.setAttribute("aria-describedby", "how");
  let socket = null;

  function say(text, tone) {
    link.textContent = text;
    link.className = `state ${tone}`;
    again.hidden = tone === "good" || tone === "busy";
    document.getElementById("said").textContent = text;
  }

  function connect() {
    const opened = new WebSocket(`wss://${location.host}${place.dataset.path}`);
    opened.binaryType = "arraybuffer";
    opened.onopen = () => {
      say("connected", "good");
      terminal.focus();
    };
    opened.onmessage = (event) => terminal.write(new Uint8Array(event.data));
    opened.onclose = (event) => {
      say(event.reason ? `ended: ${event.reason}` : "ended", "bad");
      if (socket === opened) socket = null;
    };
    socket = opened;
    say("connecting", "busy");
  }

  const bytes = new TextEncoder();
  const send = (data) => socket?.readyState === WebSocket.OPEN && socket.send(data);
  terminal.onData((text) => send(bytes.encode(text)));
  terminal.onBinary((text) => send(Uint8Array.from(text, (one) => one.charCodeAt(0))));
  terminal.attachCustomKeyEventHandler((event) => {
    if (!(event.ctrlKey && event.key === "]")) return true;
    if (event.type === "keydown") document.getElementById("leave").focus();
    return false;
  });
  again.addEventListener("click", connect);
  connect();
});
