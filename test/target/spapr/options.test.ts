import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { SpaprIommu, type SpaprIommuOptions } from '../../../src/target/spapr/index.ts';

const memory = GuestMemory.ofBytes(65_536);
const window = { liobn: 0x8000_0000, start: 0n, pageLg2: 12, pages: 64 };
const bridge = { buid: 1n, endpoints: [0], windows: [window] };
const ddw = { liobns: [0x8000_0001], pageSizeMask: 1 };

test.each<[string, unknown, typeof RangeError, RegExp]>([
  ['no memory', { bridges: [bridge] }, TypeError, /memory is no GuestMemory/],
  ['no bridges', { memory }, TypeError, /bridges are no array/],
  ['a BUID as a number', { memory, bridges: [{ ...bridge, buid: 1 }] }, TypeError, /buid 1 is no bigint/],
  ['no endpoints', { memory, bridges: [{ ...bridge, endpoints: undefined }] }, TypeError, /endpoints of PHB 0x1 are no array/],
  ['no windows', { memory, bridges: [{ ...bridge, windows: undefined }] }, TypeError, /windows of PHB 0x1 are no array/],
  ['a start as a number', { memory, bridges: [{ ...bridge, windows: [{ ...window, start: 0 }] }] }, TypeError, /start 0 of a window is no/],
  ['no dynamic LIOBNs', { memory, bridges: [{ ...bridge, ddw: { pageSizeMask: 1 } }] }, TypeError, /ddw\.liobns of PHB 0x1/],
  ['a dynamic start as a number', { memory, bridges: [{ ...bridge, ddw: { ...ddw, start: 4096 } }] }, TypeError, /ddw\.start 4096/],
  ['a negative endpoint', { memory, bridges: [{ ...bridge, endpoints: [-1] }] }, RangeError, /endpoint -1/],
  ['a fraction as endpoint', { memory, bridges: [{ ...bridge, endpoints: [0.5] }] }, RangeError, /endpoint 0\.5/],
])('%s is refused with what is wrong', (_, options, error, message) => {
  const make = () => new SpaprIommu(options as SpaprIommuOptions);
  expect(make).toThrow(error);
  expect(make).toThrow(message);
});
