// Asks the admin port, and nobody else. A token is kept in this tab's session only.

const KEPT = "weir-admin-token";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(KEPT, token);
}

/** The JSON of a page of the port; throws `Refused` with the port's own words, or a network error. */
export async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem(KEPT);
  if (token) headers.authorization = "Bearer " + token;
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(10000),
  });
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  if (answer.status === 401) sessionStorage.removeItem(KEPT);
  let message = text.trim();
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Not in the usual shape: its text is what there is.
  }
  throw new Refused(answer.status, message);
}
