/** Transports show features in words of 32 bits, of which there are two (VIRTIO 1.3, 4.1.4.3, 4.2.2). */

/** The word that `select` chooses; there are no features behind the second. */
export function featureWord(features: bigint, select: number): number {
  return select > 1 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn);
}

/** The features with that word written. */
export function withFeatureWord(features: bigint, select: number, value: number): bigint {
  if (select > 1) return features;
  const shift = BigInt(32 * select);
  return (features & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift);
}
