// Times OpenFst over lattices: the p shortest paths of a lattice composed with an n-gram model.
//
// Needs OpenFst (Debian's libfst-dev):
//
//   g++ -O3 -march=native -DNDEBUG openfst_lattice.cc -o openfst_lattice -lfst
//
//   ./openfst_lattice ARPA LATTICES PASSES
//
// ARPA: an n-gram model whose words are token ids. LATTICES: a line `scale p`; then for each lattice a line with the
// tokens of its context, a line with its number of slots, and for every slot a line `token score token score ...`.
// Prints for each lattice its paths, best first, a line `score token token ...` each, and an empty line; then, on a line,
// the microseconds a lattice: the mean, over lattices, of the fastest of PASSES searches.
//
// Outside of the times: the model as an acceptor and the lattices as transducers, in memory, the model's arcs sorted; and
// spelling out the paths. Inside: composition and shortest paths, in what was the fastest of the configurations tried.
// - The model is a ConstFst (a VectorFst took 1.1 times as long) under a PhiMatcher, by binary search (a HashMatcher, which
//   first copies the arcs of every state into a table, took 4 times as long and more).
// - Composition is lazy, matches on the model's side alone, has no filter, as there are no epsilons, and keeps all it made.
// - One path: shortest first, up to the first complete path, so that much is never composed (slot by slot took 1.05 times as
//   long with 2-grams, 2.3 times with 4-grams; the library's own choice after eager composition 1.3 and 2.8 times).
// - More paths need the whole composition: first-in first-out, which is slot by slot and visits each state once (shortest
//   first took 1.15 times as long, the library's own choice after eager composition 1.2 times).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <fst/fstlib.h>

// The tropical semiring in double precision: in float, sums of scores would differ in the sixth digit, and it was as fast
// within 5 %.
typedef fst::TropicalWeightTpl<double> Weight;
typedef fst::ArcTpl<Weight> Arc;
typedef fst::VectorFst<Arc> Graph;
typedef Arc::StateId State;
typedef Arc::Label Label;

typedef std::vector<Label> Words;

// A back-off arc has label 0, so that it is the first of its state and found at once. Token t is t + 1.
const Label kBackoff = 0, kUnknown = 1 << 30, kBegin = kUnknown + 1, kEnd = kUnknown + 2;

// The model, with a start that differs from lattice to lattice.
struct Model : fst::ConstFst<Arc> {
  explicit Model(const Graph &graph) : fst::ConstFst<Arc>(graph) {}
  State Start() const override { return start; }
  State start = 0;
};

typedef fst::PhiMatcher<fst::SortedMatcher<fst::ConstFst<Arc>>> BackoffMatcher;
typedef fst::SortedMatcher<Graph> NoMatcher;
typedef fst::NullComposeFilter<NoMatcher, BackoffMatcher> Filter;
typedef fst::GenericComposeStateTable<Arc, Filter::FilterState> StateTable;
typedef fst::VectorCacheStore<fst::CacheState<Arc>> Store;
typedef fst::ComposeFst<Arc, Store> Composition;

[[noreturn]] void fail(const std::string &message) {
  std::cerr << message << "\n";
  std::exit(1);
}

Label label(const std::string &word) {
  if (word == "<unk>") return kUnknown;
  if (word == "<s>") return kBegin;
  if (word == "</s>") return kEnd;
  return std::stoi(word) + 1;
}

// An n-gram model as an acceptor: a state for every context, an arc for every n-gram, a back-off arc from every context
// to the longest shorter one. A context that nothing follows and whose back-off weight is 1 needs no state: arcs into it go
// to its longest suffix that has one.
class Acceptor {
 public:
  Acceptor(const char *path, double scale) : scale_(scale) {
    read(path);
    for (const Entry &entry : entries_) {
      if (entry.words.size() > 1) state(Words(entry.words.begin(), entry.words.end() - 1));
      if (entry.backoff != 0) state(entry.words);
    }
    for (const Entry &entry : entries_) {
      const Words &words = entry.words;
      if (words.size() == 1) known_[words[0]] = true;
      // Lattices hold no ends of text, and nothing predicts a beginning.
      if (words.back() == kBegin || words.back() == kEnd) continue;
      const Words context(words.begin(), words.end() - 1);
      graph.AddArc(states_.at(context), Arc(words.back(), words.back(), cost(entry.log10), longest(words, 0)));
    }
    std::map<Words, float> backoffs;
    for (const Entry &entry : entries_) backoffs[entry.words] = entry.backoff;
    for (const auto &context : states_) {
      if (context.first.empty()) continue;
      graph.AddArc(context.second, Arc(kBackoff, kBackoff, cost(backoffs[context.first]), longest(context.first, 1)));
    }
    for (State s = 0; s < graph.NumStates(); ++s) graph.SetFinal(s, Weight::One());
    graph.SetStart(0);  // without a start nothing is sorted
    fst::ArcSort(&graph, fst::ILabelCompare<Arc>());
  }

  // The label that stands for a token.
  Label find(Label word) const { return known_.count(word) ? word : kUnknown; }

  // The state after a context.
  State after(const Words &context) const {
    Words known;
    for (Label word : context) known.push_back(find(word));
    return longest(known, 0);
  }

  Graph graph;

 private:
  struct Entry {
    Words words;
    float log10, backoff;
  };

  void read(const char *path) {
    state(Words());
    std::ifstream in(path);
    std::string line, word;
    std::size_t order = 0;
    while (std::getline(in, line)) {
      if (line.size() > 8 && line[0] == '\\' && line.find("-grams:") != std::string::npos) {
        order = std::stoul(line.substr(1));
      } else if (order && !line.empty() && line[0] != '\\') {
        std::istringstream fields(line);
        Entry entry;
        entry.backoff = 0;
        fields >> word;
        entry.log10 = std::strtof(word.c_str(), nullptr);
        while (entry.words.size() < order && fields >> word) entry.words.push_back(label(word));
        if (fields >> word) entry.backoff = std::strtof(word.c_str(), nullptr);
        entries_.push_back(entry);
      }
    }
    if (entries_.empty()) fail(std::string(path) + ": no ARPA text");
  }

  Weight cost(double log10) const { return -scale_ * (log10 * M_LN10); }

  State state(const Words &context) {
    const auto found = states_.emplace(context, graph.NumStates());
    return found.second ? graph.AddState() : found.first->second;
  }

  // The state of the longest suffix of `words` without its first `skip`.
  State longest(const Words &words, std::size_t skip) const {
    for (;; ++skip) {
      const auto found = states_.find(Words(words.begin() + skip, words.end()));
      if (found != states_.end()) return found->second;
    }
  }

  const double scale_;
  std::vector<Entry> entries_;
  std::map<Words, State> states_;
  std::map<Label, bool> known_;
};

struct Lattice {
  // Input labels are tokens, output labels the model's words. The best candidate of every slot costs 0, the others more,
  // so that no arc of the composition costs less than nothing.
  Graph graph;
  // What the best candidates cost together.
  double offset;
  // The model's state after the context.
  State start;
};

bool read(std::istream &in, double scale, const Acceptor &model, Lattice *lattice) {
  std::string line;
  if (!std::getline(in, line)) return false;
  Words context;
  std::istringstream words(line);
  for (std::string word; words >> word;) context.push_back(label(word));
  lattice->start = model.after(context);
  lattice->offset = 0;
  std::getline(in, line);
  Graph &graph = lattice->graph;
  graph.SetStart(graph.AddState());
  for (int slots = std::stoi(line); slots > 0; --slots) {
    if (!std::getline(in, line)) fail("a lattice is cut short");
    std::istringstream slot(line);
    std::vector<std::pair<Label, double>> candidates;
    std::string token, score;
    double best = INFINITY;
    while (slot >> token >> score) {
      candidates.emplace_back(label(token), -(1 - scale) * std::strtof(score.c_str(), nullptr));
      best = std::min(best, candidates.back().second);
    }
    lattice->offset += best;
    const State from = graph.NumStates() - 1, to = graph.AddState();
    for (const auto &candidate : candidates) {
      graph.AddArc(from, Arc(candidate.first, model.find(candidate.first), candidate.second - best, to));
    }
  }
  graph.SetFinal(graph.NumStates() - 1, Weight::One());
  return true;
}

template <class Queue>
void shortest(const Composition &composition, int p, Queue *queue, std::vector<Weight> *distance, Graph *paths) {
  typedef fst::AnyArcFilter<Arc> Filter;
  // By a delta of 1e-6, as is the default, the distances would be inexact by as much.
  const bool unique = false, has_distance = false, first_path = p == 1;
  const fst::ShortestPathOptions<Arc, Queue, Filter> options(queue, Filter(), p, unique, has_distance, 1e-12f, first_path);
  fst::ShortestPath(composition, paths, distance, options);
}

// The `p` shortest paths of the lattice composed with the model.
void search(const Lattice &lattice, Model *model, int p, Graph *paths) {
  model->start = lattice.start;
  fst::ComposeFstImplOptions<NoMatcher, BackoffMatcher, Filter, StateTable, Store> options(fst::CacheOptions(false));
  options.matcher1 = new NoMatcher(&lattice.graph, fst::MATCH_NONE);
  options.matcher2 = new BackoffMatcher(model, fst::MATCH_INPUT, kBackoff, false, fst::MATCHER_REWRITE_NEVER);
  const Composition composition(lattice.graph, *model, options);
  std::vector<Weight> distance;
  if (p == 1) {
    fst::NaturalShortestFirstQueue<State, Weight> queue(distance);
    shortest(composition, p, &queue, &distance, paths);
  } else {
    fst::FifoQueue<State> queue;
    shortest(composition, p, &queue, &distance, paths);
  }
}

// A path from `state` to the end of a tree of paths.
void print(const Graph &paths, State state, double cost) {
  std::string tokens;
  for (;;) {
    fst::ArcIterator<Graph> arcs(paths, state);
    if (arcs.Done()) break;
    const Arc &arc = arcs.Value();
    if (arc.ilabel) tokens += " " + std::to_string(arc.ilabel - 1);
    cost += arc.weight.Value();
    state = arc.nextstate;
  }
  std::printf("%.12g%s\n", -(cost + paths.Final(state).Value()), tokens.c_str());
}

int main(int argc, char **argv) {
  if (argc != 4) {
    std::cerr << "usage: openfst_lattice ARPA LATTICES PASSES\n";
    return 2;
  }
  std::ifstream in(argv[2]);
  std::string line;
  double scale = 0;
  int p = 0;
  std::getline(in, line);
  std::istringstream(line) >> scale >> p;
  if (p < 1) fail(std::string(argv[2]) + ": no `scale p` line");
  const Acceptor acceptor(argv[1], scale);
  Model model(acceptor.graph);
  std::vector<Lattice> lattices(1);
  while (read(in, scale, acceptor, &lattices.back())) lattices.emplace_back();
  lattices.pop_back();

  std::vector<double> fastest(lattices.size(), INFINITY);
  std::vector<Graph> found(lattices.size());
  for (int pass = 0; pass < std::atoi(argv[3]); ++pass) {
    for (std::size_t n = 0; n < lattices.size(); ++n) {
      Graph paths;
      const auto begin = std::chrono::steady_clock::now();
      search(lattices[n], &model, p, &paths);
      const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
      fastest[n] = std::min(fastest[n], took.count());
      found[n] = paths;
    }
  }
  for (std::size_t n = 0; n < lattices.size(); ++n) {
    if (p == 1) {
      print(found[n], found[n].Start(), lattices[n].offset);
    } else {
      for (fst::ArcIterator<Graph> arcs(found[n], found[n].Start()); !arcs.Done(); arcs.Next()) {
        print(found[n], arcs.Value().nextstate, lattices[n].offset + arcs.Value().weight.Value());
      }
    }
    std::printf("\n");
  }
  double sum = 0;
  for (double took : fastest) sum += took;
  std::printf("%.3f\n", sum / fastest.size());
}
