// Workers for pages that were opened as files: browsers start none there, and search runs in one. Its script is loaded
// into a hidden frame instead, which gets and sends the same messages. With a server nothing is changed.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow, page = inside.document;
      page.open();
      page.write("<!doctype html><title>worker</title><body>");
      page.close();
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}));
      const script = page.createElement("script");
      this.ready = new Promise((loaded, failed) => {
        script.onload = loaded;
        script.onerror = () => failed(new Error(`${url} cannot be loaded`));
      });
      script.src = new URL(url, document.baseURI);
      page.body.append(script);
    }

    postMessage(data) {
      const inside = this.frame.contentWindow;
      this.ready.then(() => inside.dispatchEvent(new inside.MessageEvent("message", {data})));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
