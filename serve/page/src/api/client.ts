/** Calls of the server's interface. */
import { signal } from "@preact/signals";
import { parse, stringify } from "./json.ts";
import { askForToken } from "./session.ts";

const BASE = "/api/v1";

/** A refusal of the server, or its silence. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** The field of the request that is meant. */
    readonly field: string | null = null,
  ) {
    super(message);
  }

  /** Whether the server could not be reached. */
  get silent(): boolean {
    return this.status === 0;
  }
}

/** Whether the server answered the last time. */
export const connected = signal(true);

type Body = { json: unknown } | { bytes: Blob };

async function send(method: string, path: string, body?: Body, stop?: AbortSignal): Promise<Response> {
  const init: RequestInit = { method, credentials: "same-origin", ...(stop && { signal: stop }) };
  if (body && "json" in body) {
    init.headers = { "Content-Type": "application/json" };
    init.body = stringify(body.json);
  } else if (body) {
    init.headers = { "Content-Type": body.bytes.type };
    init.body = body.bytes;
  }
  try {
    const response = await fetch(BASE + path, init);
    connected.value = true;
    return response;
  } catch (reason) {
    if (stop?.aborted) throw reason;
    connected.value = false;
    throw new ApiError(0, "silent", "The server does not answer.");
  }
}

async function refusal(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error: { code: string; message: string; field?: string | null } };
    return new ApiError(response.status, error.code, error.message, error.field ?? null);
  } catch {
    return new ApiError(response.status, "unknown", `The server answered with status ${response.status}.`);
  }
}

/** Sends a request and reads its answer; asks for the token if the server wants one. */
export async function call<T>(method: string, path: string, body?: Body, stop?: AbortSignal): Promise<T> {
  for (;;) {
    const response = await send(method, path, body, stop);
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (!response.ok) throw await refusal(response);
    return (response.status === 204 ? undefined : parse(await response.text())) as T;
  }
}

export const get = <T>(path: string): Promise<T> => call<T>("GET", path);

export const post = <T>(path: string, json: unknown, stop?: AbortSignal): Promise<T> =>
  call<T>("POST", path, { json }, stop);

export const postBytes = <T>(path: string, bytes: Blob): Promise<T> => call<T>("POST", path, { bytes });

export const remove = (path: string): Promise<void> => call<void>("DELETE", path);

/** Gives the server its token; `false` if it is the wrong one. */
export async function openSession(token: string): Promise<boolean> {
  const response = await send("POST", "/session", { json: { token } });
  if (response.status === 401) return false;
  if (!response.ok) throw await refusal(response);
  return true;
}
