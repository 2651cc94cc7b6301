const NONE: ReadonlySet<number> = new Set();

/** Which endpoints had which domain when their entries were looked at last: invalidations name domains. */
export class EndpointDomains {
  readonly #domains = new Map<number, number>();
  readonly #endpoints = new Map<number, Set<number>>();

  set(endpoint: number, domain: number): void {
    if (this.#domains.get(endpoint) === domain) return;
    this.remove(endpoint);
    this.#domains.set(endpoint, domain);
    this.#endpoints.set(domain, (this.#endpoints.get(domain) ?? new Set()).add(endpoint));
  }

  remove(endpoint: number): void {
    const domain = this.#domains.get(endpoint);
    if (domain === undefined) return;
    this.#domains.delete(endpoint);
    const endpoints = this.#endpoints.get(domain)!;
    endpoints.delete(endpoint);
    if (endpoints.size === 0) this.#endpoints.delete(domain);
  }

  endpointsOf(domain: number): ReadonlySet<number> {
    return this.#endpoints.get(domain) ?? NONE;
  }
}
