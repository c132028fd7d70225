/* Excerpts below the results of a search, also where the pages are opened from the disk: a browser
   refuses to fetch a page from there, so their texts come from a script that the build writes. */
"use strict";
if (location.protocol === "file:") {
  document.write('<script src="_static/search_texts.js"><\/script>');
  window.fetch = (address) => {
    const root = document.documentElement.dataset.content_root;
    const name = String(address).slice(root.length).replace(/\.html$/, "");
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    main.textContent = (window.SEARCH_TEXTS || {})[name] || "";
    return Promise.resolve({ text: () => Promise.resolve(main.outerHTML) });
  };
}
