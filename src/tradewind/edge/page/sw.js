// Keeps what the page has loaded, so that it works with the network cut. One cache for each version of the page and model;
// older ones go when a new version takes over. What lies under ROOT never changes and comes from the cache first; the page
// itself comes from the server where that answers.

const ROOT = "{{root}}";
const CACHE = `tradewind${ROOT}`;
const SHELL = ["/", ...["app.js", "features.js", "icon.svg", "style.css"].map((name) => ROOT + name)];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)));
});

self.addEventListener("activate", (event) => event.waitUntil(takeOver()));

self.addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  if (event.request.method !== "GET" || origin !== location.origin) return;
  if (pathname === "/") event.respondWith(newest(event));
  else if (pathname.startsWith(ROOT)) event.respondWith(kept(event));
});

async function takeOver() {
  const old = (await caches.keys()).filter((name) => name.startsWith("tradewind/") && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function newest(event) {
  try {
    return await fetch(event.request);
  } catch {
    return (await caches.open(CACHE)).match("/");
  }
}

async function kept(event) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(event.request, { ignoreVary: true });
  if (found) return found;
  const response = await fetch(event.request);
  if (response.ok) event.waitUntil(cache.put(event.request, response.clone()));
  return response;
}
