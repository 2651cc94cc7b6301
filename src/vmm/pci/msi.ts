import type { Capability } from './capabilities.ts';
import type { ConfigSpace } from './config-space.ts';
import type { SendMessage } from './msix.ts';
import { MSI_ADDRESS, MSI_CONTROL, MSI_UPPER_ADDRESS, MsiControl } from './spec.ts';

const MSI_DATA = 12;
const MSI_MASK = 16;
const MSI_PENDING = 20;

/** Messages by the MSI capability (PCI Express Base 5.0, 7.7.1), as `msi` declares it. All its state is in configuration space. */
export class Msi {
  readonly vectors: number;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #maskable: boolean;
  readonly #send: SendMessage;

  constructor(capability: Capability, config: ConfigSpace, at: number, send: SendMessage) {
    this.#config = config;
    this.#at = at;
    this.#send = send;
    this.#maskable = capability.fields.some((field) => field.at === MSI_MASK);
    this.vectors = 1 << ((config.get(at + MSI_CONTROL, 2) >>> MsiControl.CAPABLE_SHIFT) & 7);
  }

  get enabled(): boolean {
    return (this.#config.get(this.#at + MSI_CONTROL, 2) & MsiControl.ENABLE) !== 0;
  }

  /** Sends a vector's message, or remembers it while it is masked; vectors that software did not enable share the last one. */
  signal(vector: number): void {
    const control = this.#config.get(this.#at + MSI_CONTROL, 2);
    const enabled = 1 << Math.min((control & MsiControl.ENABLED) >>> MsiControl.ENABLED_SHIFT, 5);
    const number = Math.min(vector, enabled - 1, this.vectors - 1);
    if (this.#maskable && (this.#config.get(this.#at + MSI_MASK, 4) & (1 << number)) !== 0) {
      this.#setPending(number, true);
      return;
    }
    const low = this.#config.get(this.#at + MSI_ADDRESS, 4);
    const high = this.#config.get(this.#at + MSI_UPPER_ADDRESS, 4);
    // The low bits of the data are the vector's number (7.7.1.5).
    const data = (this.#config.get(this.#at + MSI_DATA, 2) & ~(enabled - 1)) | number;
    this.#send((BigInt(high) << 32n) | BigInt(low), data);
  }

  /** What waits and is masked no more goes out. */
  settle(): void {
    if (!this.#maskable || !this.enabled) return;
    const ready = this.#config.get(this.#at + MSI_PENDING, 4) & ~this.#config.get(this.#at + MSI_MASK, 4);
    for (let vector = 0; vector < this.vectors; vector++) {
      if ((ready & (1 << vector)) === 0) continue;
      this.#setPending(vector, false);
      this.signal(vector);
    }
  }

  #setPending(vector: number, pending: boolean): void {
    const at = this.#at + MSI_PENDING;
    const bits = this.#config.get(at, 4);
    this.#config.put(at, 4, pending ? bits | (1 << vector) : bits & ~(1 << vector));
  }
}
