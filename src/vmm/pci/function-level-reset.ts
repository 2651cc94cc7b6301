import type { ConfigSpace } from './config-space.ts';
import { DEVICE_CAPABILITIES, DEVICE_CONTROL, DeviceControl, FUNCTION_LEVEL_RESET } from './spec.ts';

/** The bit's byte, and its place there. */
const INITIATE_AT = DEVICE_CONTROL + 1;
const INITIATE = DeviceControl.INITIATE_RESET >> 8;

/** By which software resets a function and nothing else (PCI Express Base 5.0, 6.6.2), where `integratedEndpoint` says that it can. */
export class FunctionLevelReset {
  readonly #config: ConfigSpace;
  readonly #at: number;

  /** `at`: where the PCI Express capability lies; -1: nowhere. */
  constructor(config: ConfigSpace, at: number) {
    this.#config = config;
    this.#at = at;
  }

  /** Whether a write to configuration space asks for it; the bit itself always reads zero. */
  isAskedBy(offset: number, bytes: number, value: number): boolean {
    const byte = this.#at + INITIATE_AT - offset;
    if (this.#at < 0 || byte < 0 || byte >= bytes || ((value >>> (8 * byte)) & INITIATE) === 0) return false;
    return (this.#config.get(this.#at + DEVICE_CAPABILITIES, 4) & FUNCTION_LEVEL_RESET) !== 0;
  }

  /** Resets by `reset`, but for what belongs to the link (6.6.2). */
  perform(reset: () => void): void {
    const payload = this.#config.get(this.#at + DEVICE_CONTROL, 2) & DeviceControl.MAX_PAYLOAD;
    reset();
    const control = this.#config.get(this.#at + DEVICE_CONTROL, 2);
    this.#config.put(this.#at + DEVICE_CONTROL, 2, (control & ~DeviceControl.MAX_PAYLOAD) | payload);
  }
}
