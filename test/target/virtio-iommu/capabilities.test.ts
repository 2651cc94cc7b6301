import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { FEATURES, featuresOf } from '../../../src/target/virtio-iommu/capabilities.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';

const DOCS = join(import.meta.dirname, '../../../docs/targets/virtio-iommu.md');
const memory = GuestMemory.ofBytes(4096);

test('the table in docs/targets/virtio-iommu.md is capabilities.ts', () => {
  const rows = FEATURES.map(({ name, section, mask, value, reason }) => {
    const bit = mask.toString(2).length - 1;
    return `| ${name} | ${bit} | ${section} | ${value ? 'yes' : 'no'} | ${reason} |`;
  });
  expect(readFileSync(DOCS, 'utf8')).toContain(rows.join('\n'));
});

test('every bit is one feature’s, in ascending order', () => {
  const masks = FEATURES.map(({ mask }) => mask);
  expect(masks).toEqual([...new Set(masks)].sort((a, b) => Number(a - b)));
});

test('a driver reads it; options take off what they say, and BYPASS comes in BYPASS_CONFIG’s place only', () => {
  expect(new VirtioIommu({ memory }).device.offeredFeatures).toBe(featuresOf(FEATURES));
  expect(new VirtioIommu({ memory, probeBytes: 0 }).device.offeredFeatures).toBe(featuresOf(FEATURES, ['PROBE']));
  expect(new VirtioIommu({ memory, bypassMode: 'never' }).device.offeredFeatures).toBe(featuresOf(FEATURES, ['BYPASS_CONFIG']));
  expect(new VirtioIommu({ memory, bypassMode: 'feature' }).device.offeredFeatures).toBe(featuresOf(FEATURES, ['BYPASS_CONFIG']) | 8n);
});
