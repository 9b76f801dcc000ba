// xterm.js writes <style> elements and style attributes, which our Content-Security-Policy forbids, as it
// forbids those of whoever might slip one into a page. What a script of ours says through the CSSOM is
// allowed; so here, on the console's page, both are said that way.
"use strict";
{
  const create = document.createElement.bind(document);
  document.createElement = (name, options) => (name === "style" ? styles() : create(name, options));

  // In the place of a <style>: an element that shows nothing, whose text becomes a style sheet.
  function styles() {
    const element = create("template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    Object.defineProperty(element, "textContent", { set: (text) => sheet.replaceSync(text) });
    return element;
  }

  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else set.call(this, name, value);
  };
}
