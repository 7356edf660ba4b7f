// Drafts that a text holds of what follows it.
#include "runtime/model/use/prompt_lookup.h"

#include <gtest/gtest.h>

namespace rankforge {
namespace {

using Ids = std::vector<int>;

Ids Draft(const Ids& text, size_t most = 4, size_t room = 99) {
  return PromptLookup(most).Draft(text, room);
}

TEST(PromptLookupTest, NothingStoodBefore) {
  EXPECT_EQ(Draft({}), Ids());
  EXPECT_EQ(Draft({7}), Ids());
  EXPECT_EQ(Draft({1, 2, 3, 4}), Ids());
}

TEST(PromptLookupTest, WhatFollowedBefore) {
  EXPECT_EQ(Draft({5, 1, 2, 3, 4, 6, 8, 5}), Ids({1, 2, 3, 4}));
  EXPECT_EQ(Draft({1, 2, 3, 10, 11, 12, 13, 14, 1, 2, 3}),
            Ids({10, 11, 12, 13}));
}

TEST(PromptLookupTest, TheLongestEndWins) {
  // Of the places of 3, the one after 1, 2 although another is later.
  EXPECT_EQ(Draft({1, 2, 3, 10, 9, 3, 20, 1, 2, 3}, 1), Ids({10}));
  // Two tokens before one.
  EXPECT_EQ(Draft({2, 3, 10, 9, 3, 20, 2, 3}, 1), Ids({10}));
  // More than three count as three: the later place.
  EXPECT_EQ(Draft({0, 1, 2, 3, 10, 9, 1, 2, 3, 20, 0, 1, 2, 3}, 1), Ids({20}));
}

TEST(PromptLookupTest, OfEqualEndsTheLatest) {
  EXPECT_EQ(Draft({1, 2, 10, 1, 2, 20, 1, 2}, 1), Ids({20}));
  EXPECT_EQ(Draft({3, 10, 3, 20, 3}, 2), Ids({20, 3}));
}

// The draft goes on with itself where the text ends.
TEST(PromptLookupTest, WhatRepeatsIsRepeated) {
  EXPECT_EQ(Draft({9, 7, 7}), Ids({7, 7, 7, 7}));
  EXPECT_EQ(Draft({7, 7, 7, 7, 7}), Ids({7, 7, 7, 7}));
  EXPECT_EQ(Draft({9, 1, 2, 1, 2}), Ids({1, 2, 1, 2}));
  EXPECT_EQ(Draft({1, 2, 3, 1}, 5), Ids({2, 3, 1, 2, 3}));
  // The match may overlap the end of the text.
  EXPECT_EQ(Draft({8, 1, 2, 1, 2, 1}, 3), Ids({2, 1, 2}));
}

TEST(PromptLookupTest, NoMoreThanThereIsRoomFor) {
  const Ids text = {7, 7};
  EXPECT_EQ(Draft(text, 4, 0), Ids());
  EXPECT_EQ(Draft(text, 4, 2), Ids({7, 7}));
  EXPECT_EQ(Draft(text, 0), Ids());
  EXPECT_EQ(Draft(text, 99).size(), kMostDrafted);
}

TEST(PromptLookupTest, WrongDraftsAreShort) {
  const Ids text = {7, 7};
  PromptLookup lookup(8);
  const auto size = [&](size_t room = 99) {
    return lookup.Draft(text, room).size();
  };
  EXPECT_EQ(size(), 8u);
  lookup.Learn(8, 3);
  EXPECT_EQ(size(), 3u);
  lookup.Learn(3, 0);
  EXPECT_EQ(size(), 1u);
  lookup.Learn(0, 0);  // there was no draft
  EXPECT_EQ(size(), 1u);
  lookup.Learn(1, 1);
  EXPECT_EQ(size(), 2u);
  lookup.Learn(2, 2);
  EXPECT_EQ(size(), 4u);
  EXPECT_EQ(size(1), 1u);
  lookup.Learn(1, 1);  // as many as there was room for
  EXPECT_EQ(size(), 4u);
  lookup.Learn(4, 4);
  lookup.Learn(8, 8);
  EXPECT_EQ(size(), 8u);
}

// Passes without a draft after so many drafts in a row that were wrong.
TEST(PromptLookupTest, WrongDraftsInARowPause) {
  const Ids text = {7, 7};
  PromptLookup lookup(8);
  const auto pause = [&] {
    size_t passes = 0;
    for (; lookup.Draft(text, 99).empty(); ++passes) lookup.Learn(0, 0);
    return passes;
  };
  for (const size_t expected : {0u, 1u, 3u, 7u, 7u, 7u}) {
    EXPECT_EQ(pause(), 0u);
    lookup.Learn(1, 0);
    EXPECT_EQ(pause(), expected);
  }
  // One that was right in part begins anew.
  lookup.Learn(2, 1);
  EXPECT_EQ(pause(), 0u);
  lookup.Learn(1, 0);
  EXPECT_EQ(pause(), 0u);
  lookup.Learn(1, 0);
  EXPECT_EQ(pause(), 1u);
}

}  // namespace
}  // namespace rankforge
