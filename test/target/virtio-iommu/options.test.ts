import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu, type VirtioIommuOptions } from '../../../src/target/virtio-iommu/index.ts';

const memory = GuestMemory.ofBytes(65_536);

test.each<[string, unknown, RegExp]>([
  ['no memory', {}, /memory is no GuestMemory/],
  ['a page size mask as a number', { memory, pageSizeMask: 4096 }, /pageSizeMask 4096 is no bigint/],
  ['an input range of numbers', { memory, inputRange: { start: 0, last: 0xfff } }, /inputRange\.start 0 is no bigint/],
  ['an input range without an end', { memory, inputRange: { start: 0n } }, /inputRange\.last null is no bigint/],
])('%s is a TypeError that says what is wrong', (_, options, message) => {
  const make = () => new VirtioIommu(options as VirtioIommuOptions);
  expect(make).toThrow(TypeError);
  expect(make).toThrow(message);
});

test('a reserved region of numbers is a TypeError', () => {
  const target = new VirtioIommu({ memory });
  const region = { kind: 'msi', start: 0, last: 0xfff } as unknown as { kind: 'msi'; start: bigint; last: bigint };
  expect(() => target.addEndpoint(1, [region])).toThrow(/\[0, 4095\] is not of bigints/);
  expect(() => target.addEndpoint(1, [region])).toThrow(TypeError);
});
