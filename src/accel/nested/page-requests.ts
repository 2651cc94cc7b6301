import type { NestingParent } from '../../host/host.ts';

/** Groups of page requests that wait for the guest at one time; more are refused at once. */
const LIMIT = 4096;

/** Which of the kernel's cookies answers which group of page requests of the guest's. */
export class PageRequests {
  readonly #parent: NestingParent;
  readonly #cookies = new Map<string, { readonly endpoint: number; readonly pasid: number; readonly cookie: number }>();

  constructor(parent: NestingParent) {
    this.#parent = parent;
  }

  /** False: the guest is not to be asked, and the device has its answer. A group that is asked for anew supersedes the one before. */
  expect(endpoint: number, pasid: number, group: number, cookie: number): boolean {
    this.answer(endpoint, pasid, group, false);
    if (this.#cookies.size >= LIMIT) {
      this.#parent.respond(cookie, false);
      return false;
    }
    this.#cookies.set(`${endpoint}/${pasid}/${group}`, { endpoint, pasid, cookie });
    return true;
  }

  answer(endpoint: number, pasid: number, group: number, resolved: boolean): void {
    const key = `${endpoint}/${pasid}/${group}`;
    const waiting = this.#cookies.get(key);
    if (waiting === undefined) return;
    this.#cookies.delete(key);
    this.#parent.respond(waiting.cookie, resolved);
  }

  /** The kernel answers for requests whose stage is left, and may give their cookies to others. */
  forget(endpoint: number, pasid: number): void {
    for (const [key, waiting] of this.#cookies) if (waiting.endpoint === endpoint && waiting.pasid === pasid) this.#cookies.delete(key);
  }

  /** The same of all requests of an endpoint. */
  forgetEndpoint(endpoint: number): void {
    for (const [key, waiting] of this.#cookies) if (waiting.endpoint === endpoint) this.#cookies.delete(key);
  }
}
