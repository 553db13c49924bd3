/** Several streams of items as one, each item as soon as it is there. */

interface Arrival<T> {
  item: T;
  /** Tells its source whether another is wanted. */
  goOn: (isWanted: boolean) => void;
}

/**
 * A source is asked for its next item when the last one has been taken. The first error ends the whole. At any end
 * `onEnd` is called, upon which sources that still run must end too.
 */
export async function* merge<T>(
  sources: readonly AsyncIterable<T>[],
  onEnd: () => void,
): AsyncGenerator<T, void, void> {
  const arrivals: Arrival<T>[] = [];
  let changed = Promise.withResolvers<void>();
  let running = sources.length;
  let failure: { error: unknown } | null = null;
  const pumps = sources.map(async (source) => {
    try {
      for await (const item of source) {
        const next = Promise.withResolvers<boolean>();
        arrivals.push({ item, goOn: next.resolve });
        changed.resolve();
        if (!(await next.promise)) break;
      }
    } catch (error) {
      failure ??= { error };
    }
    running--;
    changed.resolve();
  });
  try {
    for (;;) {
      // It stays the first until it has been taken: whoever leaves here must let its source go.
      for (; arrivals.length > 0; arrivals.shift()?.goOn(true)) yield arrivals[0].item;
      throwIfFailed(failure);
      if (running === 0) return;
      await changed.promise;
      changed = Promise.withResolvers<void>();
    }
  } finally {
    onEnd();
    for (const { goOn } of arrivals) goOn(false);
    await Promise.all(pumps);
  }
}

function throwIfFailed(failure: { error: unknown } | null): void {
  if (failure) throw failure.error;
}
