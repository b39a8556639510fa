// What the parts of the page have in common while the tab lives: the service, the collection, photos given, the place.

import * as api from "./api.js";
import * as address from "./address.js";

export const session = {
  service: null,
  collection: null, // name
  here: address.parse(""), // the place on show
  photos: new Map(), // number -> { file, url, embedding }: they stay in this tab
  treeVersion: 0, // grows when what was drawn of a tree is not so any more
  placed: null, // where the last query belongs in the tree: { collection, title, nodes: [id], item, image }
};

/** The address of a place in the collection on show. Filters and page size go along unless told otherwise. */
export function link(place) {
  const { service, collection, here } = session;
  const elsewhere = collection !== service.default_collection ? collection : null;
  return address.format({ limit: here.limit, filters: here.filters, collection: elsewhere, ...place });
}

export const itemLink = (id) => link({ view: "item", id });

let loading = null;

/** Wait until the service has told what it holds; a failure is tried anew by the next who asks. */
export function ready() {
  loading ??= api.info().then(
    (found) => { session.service = found; },
    (error) => {
      loading = null;
      throw error;
    },
  );
  return loading;
}

const trees = new Map();

/**
 * The tree over a collection as a whole: `{ tree, root }`; null where none was built.
 *
 * Asked for once; but what failed, or was missing, is asked for again by the next, for it may be built meanwhile.
 */
export function treeOf(collection) {
  if (!trees.has(collection)) {
    const asked = api.nodes(collection, { depth: 0 }).then(
      ({ tree, nodes }) => ({ tree, root: nodes[0] }),
      (error) => {
        trees.delete(collection);
        if (error.code === "tree_not_found") return null;
        throw error;
      },
    );
    trees.set(collection, asked);
  }
  return trees.get(collection);
}

/** A node was named, or the tree was built anew: what was drawn of it is drawn again when it is next shown. */
export function treeChanged() {
  trees.clear();
  session.treeVersion += 1;
}

export const NO_TREE =
  "Groups, the map and zooming appear once a tree has been built over this collection: run “lhier hierarchy build STORE”, "
  + "or start a job of kind “hierarchy”.";
