/** struct virtio_iommu_config (5.13.4), little-endian. */
const PAGE_SIZE_MASK = 0;
const INPUT_START = 8;
const INPUT_END = 16;
const DOMAIN_START = 24;
const DOMAIN_END = 28;
const PROBE_SIZE = 32;
const BYPASS = 36;
const CONFIG_BYTES = 40;

export interface ConfigFields {
  readonly pageSizeMask: bigint;
  /** First and last address that MAP takes. */
  readonly inputRange: { readonly start: bigint; readonly last: bigint };
  /** First and last domain number. */
  readonly domainRange: { readonly first: number; readonly last: number };
  /** Bytes of a PROBE answer. */
  readonly probeBytes: number;
}

/** The device's configuration as the driver reads it. Only `bypass` ever changes. */
export class ConfigSpace {
  readonly #bytes = new Uint8Array(CONFIG_BYTES);

  constructor(fields: ConfigFields) {
    const view = new DataView(this.#bytes.buffer);
    view.setBigUint64(PAGE_SIZE_MASK, fields.pageSizeMask, true);
    view.setBigUint64(INPUT_START, fields.inputRange.start, true);
    view.setBigUint64(INPUT_END, fields.inputRange.last, true);
    view.setUint32(DOMAIN_START, fields.domainRange.first, true);
    view.setUint32(DOMAIN_END, fields.domainRange.last, true);
    view.setUint32(PROBE_SIZE, fields.probeBytes, true);
  }

  get bypass(): boolean {
    return this.#bytes[BYPASS] === 1;
  }
  set bypass(value: boolean) {
    this.#bytes[BYPASS] = value ? 1 : 0;
  }

  /** Fills `to` with what the driver reads at `offset`; 0 past the end. */
  read(offset: number, to: Uint8Array): void {
    for (let i = 0; i < to.length; i++) to[i] = this.#bytes[offset + i] ?? 0;
  }

  /** What a write means for `bypass`; null: nothing, or a value that it cannot have (5.13.4.2). */
  bypassWritten(offset: number, from: Uint8Array): boolean | null {
    const value = from[BYPASS - offset];
    return value === 0 || value === 1 ? value === 1 : null;
  }
}
