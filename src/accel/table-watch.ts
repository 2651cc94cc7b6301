/**
 * How an embedder says that the guest has stored to pages which hold its tables: what an emulator does in its store path, and a KVM VMM by write
 * protection. Only pages that are watched are told of, whoever stores: CPUs, and emulated devices by DMA.
 */
export interface TableWatch {
  /**
   * From its return on, stores to the page (a guest page frame number) are told to whoever observes, after the store can be read and before the
   * CPU that made it goes on. Returns false when the page cannot be watched.
   */
  watch(pfn: number): boolean;
  unwatch(pfn: number): void;
  /** `stored`: the guest stored to the `bytes` bytes from byte `offset` of a watched page on. Returns the disposer; one observer at most. */
  observe(stored: (pfn: number, offset: number, bytes: number) => void): () => void;
}
