// The search runs in a worker, which browsers refuse to a page that is opened as a file. There the worker's
// script runs in a hidden frame instead, behind the same interface; nothing is asked of a server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      document.body.append(frame)
      this.frame = frame.contentWindow
      this.frame.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.frame.importScripts = (...urls) =>
        urls.reduce((before, one) => before.then(() => this.load(one)), Promise.resolve())
      this.ready = this.load(new URL(url, document.baseURI).href)
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.document.createElement("script")
        script.onload = resolve
        script.onerror = reject
        script.src = url
        this.frame.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.frame.dispatchEvent(new this.frame.MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.frameElement.remove()
    }
  }
}
