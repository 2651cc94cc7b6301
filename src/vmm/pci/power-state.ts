import type { ConfigSpace } from './config-space.ts';
import { D0, D3_HOT, POWER_CONTROL, PowerControl } from './spec.ts';

/** Whether a function is on (PCI Express Base 5.0, 5.3.1, 7.5.2.2), as software says by the capability that `powerManagement` declares. */
export class PowerState {
  readonly #config: ConfigSpace;
  readonly #at: number;
  #state = D0;

  /** `at`: where the capability lies; -1: there is none, and the function is always on. */
  constructor(config: ConfigSpace, at: number) {
    this.#config = config;
    this.#at = at;
  }

  /** In D3hot a function answers in configuration space and nowhere else, and has nothing to say (5.3.1.4.1). */
  get isOn(): boolean {
    return this.#state === D0;
  }

  /** Takes what stands in its register, when anything was written. Whether the function has come back in a way that resets it. */
  settle(): boolean {
    if (this.#at < 0) return false;
    const control = this.#config.get(this.#at + POWER_CONTROL, 2);
    const wanted = control & PowerControl.STATE;
    const before = this.#state;
    // A state that the function does not have is discarded (7.5.2.2).
    if (wanted !== D0 && wanted !== D3_HOT) this.#config.put(this.#at + POWER_CONTROL, 2, (control & ~PowerControl.STATE) | before);
    else this.#state = wanted;
    return before === D3_HOT && this.#state === D0 && (control & PowerControl.NO_SOFT_RESET) === 0;
  }
}
